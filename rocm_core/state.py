"""Stopping and going on: the state of an unfinished training, its one owner, and the wish to stop.

A state is written atomically and checked when read; a lock with a heartbeat keeps two writers
apart.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch

from rocm_core.errors import UserError
from rocm_core.provenance import atomic_write

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
TIME_LIMIT_MARGIN_SECONDS = 120.0


class StateFolder:
    """A folder with the newest states of one training run, owned while the `with` block lasts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = Lock(folder)

    def __enter__(self) -> Self:
        self.lock.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.lock.__exit__(*exception)
        with contextlib.suppress(OSError):
            self.folder.rmdir()  # if nothing but the lock was in it

    def save(self, step: int, content: dict[str, Any]) -> None:
        """Keep `content`, tensors and plain values, as the newest state; the one before stays."""
        buffer = io.BytesIO()
        torch.save(content, buffer)
        payload = buffer.getvalue()
        with self.lock.held(), atomic_write(self.folder / f"step-{step:09d}.state") as file:
            file.write(hashlib.sha256(payload).digest() + payload)
        for old in self._files()[2:]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole, or None; says on stderr which files were damaged."""
        for path in self._files():
            content = path.read_bytes()
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                return torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
            print(f"{path} is damaged: going back to the state before it", file=sys.stderr)
        return None

    def clear(self) -> None:
        """Remove every state and whatever else was put here, but the lock."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path not in (self.lock.path, self.lock.guard):
                path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.state"), reverse=True)


class Lock:
    """Ownership of a folder by one process, across machines that share the file system.

    `lock.json` names the owner, who touches it every few seconds. A lock is taken over when its
    owner is a dead process of this machine or has not beaten for STALE_SECONDS by our own clock; an
    owner that beats means `UserError`. An owner that was thought dead finds out in `held`.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock.json"
        self.guard = folder / "lock.guard"
        self.me = {**_here(), "pid": os.getpid(), "token": secrets.token_hex(8)}
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        first, since = None, time.monotonic()
        while True:
            with self._alone():
                owner, beat = self._read()
                first = first or (owner, beat)
                if owner is not None and first != (owner, beat):
                    raise UserError(
                        f"{self.path.parent} is in use by {_name(owner)}: "
                        "wait for that process or stop it"
                    )
                if owner is None or _is_dead(owner) or time.monotonic() - since > STALE_SECONDS:
                    self.path.write_text(json.dumps(self.me))
                    break
            time.sleep(min(1.0, STALE_SECONDS / 4))
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._heart.join()
        with self._alone():
            if self._read()[0] == self.me:
                self.path.unlink()
                self.guard.unlink()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody can take the lock over inside; raises `UserError` if somebody already has."""
        with self._alone():
            owner, _ = self._read()
            if owner != self.me:
                taker = _name(owner or {})
                raise UserError(f"{self.path.parent} was taken over by {taker}: this process stops")
            yield

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            while True:
                self.guard.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(open(self.guard, "a"))
                # Some parallel file systems have no flock: then only the heartbeat protects.
                with contextlib.suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file.fileno()), os.stat(self.guard)):
                        break  # else its owner removed it while we waited
            yield

    def _read(self) -> tuple[dict[str, Any] | None, int]:
        """The owner, None without a lock, and when it last beat."""
        try:
            return json.loads(self.path.read_text() or "{}"), self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return None, 0
        except ValueError:
            return {}, self.path.stat().st_mtime_ns

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError, UserError), self.held():
                os.utime(self.path)


def _here() -> dict[str, str]:
    """This machine, as far as process numbers go: containers of one host have their own."""
    namespace = Path("/proc/self/ns/pid")
    return {
        "host": socket.gethostname(),
        "namespace": os.readlink(namespace) if namespace.exists() else "",
    }


def _name(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid', '?')} on {owner.get('host', 'an unknown machine')}"


def _is_dead(owner: dict[str, Any]) -> bool:
    if any(owner.get(key) != value for key, value in _here().items()):
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


class StopRequest:
    """Whether to save and leave: after SIGTERM or SIGUSR1, or shortly before Slurm's time limit."""

    def __init__(self) -> None:
        self._signalled = False
        end = os.environ.get("SLURM_JOB_END_TIME")
        self._deadline = float(end) - TIME_LIMIT_MARGIN_SECONDS if end else None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self._signalled or (self._deadline is not None and time.time() > self._deadline)

    def _note(self, *_: object) -> None:
        self._signalled = True
