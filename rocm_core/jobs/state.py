"""Stopping and resuming: the state of an unfinished training run, and the request to stop.

A state is written atomically, by the one owner of its folder, and checked when read. A folder has
one owner at a time, across machines that share a file system, and a record of all. A killed owner
leaves its lock behind; its last heartbeat shows how long it lived.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Self

from rocm_core.errors import UserError
from rocm_core.jobs.environment import whole_number
from rocm_core.provenance import atomic_write, write_json

TIME_LIMIT_MARGIN_SECONDS = 120.0
FINISHED = "finished"  # marks a state that is kept although its training run has ended
HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 120.0
PATIENCE_SECONDS = 300.0
POLL_SECONDS = 1.0
GUARD_SECONDS = 0.05  # between looks at a guard, which is held for a write at most

Owner = dict[str, Any]


class Lock:
    """Ownership of a folder by one process, while the `with` block lasts.

    `lock.json` names the owner, who touches it every few seconds. A lock is taken over when its
    owner is a dead process of this machine or, on another machine, has sent no heartbeat for
    STALE_SECONDS by our own clock; whoever took it over in the meantime is another owner. For a
    living one we wait at most PATIENCE_SECONDS, then raise `UserError`; meanwhile `give_up` is
    called and may raise. An owner wrongly taken for dead learns of it in `held`, inside of which
    it has to write whatever it writes.

    `attempts.json` lists every owner so far, until it is removed.
    """

    def __init__(self, folder: Path, give_up: Callable[[], None] = lambda: None) -> None:
        self.folder = folder
        self.path, self.guard = folder / "lock.json", folder / "lock.guard"
        self.record = folder / "attempts.json"
        self.me: Owner = {
            **_here(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
            "job": os.environ.get("SLURM_JOB_ID"),
            "token": secrets.token_hex(8),
        }
        self._give_up = give_up
        self._released = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        began = silent_since = time.monotonic()
        seen, lives = None, False
        while True:
            silent = time.monotonic() - silent_since > STALE_SECONDS
            abandoned = seen if silent else None
            if not (holder := self._take(abandoned)):
                break
            self._give_up()
            now, told = time.monotonic(), lives
            if seen and holder != seen:
                silent_since, lives = now, True
            # One that is silent and could not be taken over is inside of `held`.
            lives = lives or bool(_lives(holder[0])) or holder == abandoned
            if lives and not told:
                print(f"waiting for {_name(holder[0])} in {self.folder}", file=sys.stderr)
            if lives and now - began > PATIENCE_SECONDS:
                raise UserError(
                    f"{self.folder} is in use by {_name(holder[0])}: wait for it or stop it"
                )
            seen = holder
            time.sleep(POLL_SECONDS)
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._heart.join()
        with contextlib.suppress(UserError), self.held():
            if self.record.exists():
                with contextlib.suppress(OSError):  # a full disk must not keep the lock
                    self._remember(self.me, time.time())
            self.path.unlink()
            self.guard.unlink()

    def note(self, **facts: Any) -> None:
        """Add facts to this owner's record, which survives even if it is killed."""
        with self.held():
            self.me |= facts
            write_json(self.path, self.me)

    def attempts(self) -> list[Owner]:
        """Every owner so far, this one last: host, pid, Slurm job, seconds of ownership, and the
        facts that it noted."""
        with self.held():
            return self._remember(self.me, time.time())

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody can take the lock over inside; raises `UserError` if somebody already has."""
        with self._alone():
            if not self._is_mine():
                raise self._lost()
            yield

    def _lost(self) -> UserError:
        taker = self._read()
        name = _name(taker[0]) if taker else "a process that has ended"
        return UserError(f"{self.folder} was taken over by {name}: this process stops")

    def _take(self, abandoned: tuple[Owner, float] | None) -> tuple[Owner, float] | None:
        """Take the lock, or return its owner and the time of its last heartbeat.

        abandoned: the owner and heartbeat that have not changed for too long.
        """
        try:
            with self._alone(entering=True):
                if holder := self._read():
                    lives = _lives(holder[0])
                    if lives or (lives is None and holder != abandoned):
                        return holder
                    if "token" in holder[0]:
                        self._remember(*holder)
                self.me["since"] = time.time()
                self._remember(self.me, self.me["since"])
                write_json(self.path, self.me)
                return None
        except BlockingIOError:
            return self._read() or ({}, 0.0)

    def _remember(self, owner: Owner, until: float) -> list[Owner]:
        known = json.loads(self.record.read_text()) if self.record.exists() else []
        seconds = round(max(0.0, until - owner.get("since", until)), 3)
        entry = {**owner, "seconds": seconds}
        attempts = [*(one for one in known if one["token"] != owner["token"]), entry]
        write_json(self.record, attempts)
        return attempts

    @contextlib.contextmanager
    def _alone(self, entering: bool = False) -> Iterator[None]:
        """Nobody else is inside. Who is `entering` makes the folder, and gets a BlockingIOError if
        somebody is inside for POLL_SECONDS."""
        began, told = time.monotonic(), False
        while True:
            if entering:
                self.folder.mkdir(parents=True, exist_ok=True)
            try:
                file = open(self.guard, "a" if entering else "r+")
            except FileNotFoundError:  # removed by its owner
                if entering:
                    continue
                raise self._lost() from None
            with file:
                if self._has_locked(file):
                    yield
                    return
            # No call that waits: no request to stop would get through to it.
            waited = time.monotonic() - began
            if entering and waited > POLL_SECONDS:
                raise BlockingIOError
            if waited > STALE_SECONDS and not told:
                print(f"waiting for whoever has locked {self.guard}", file=sys.stderr)
                told = True
            time.sleep(GUARD_SECONDS)

    def _has_locked(self, file: IO[str]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # Some parallel file systems have no flock: then only the heartbeat protects.
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.guard))
        except FileNotFoundError:  # its owner removed it while we opened it
            return False

    def _read(self) -> tuple[Owner, float] | None:
        """The owner and its last heartbeat (seconds since the epoch), or None without a lock."""
        try:
            # Opening the file makes NFS ask the server for its time instead of using a cached one.
            with open(self.path, encoding="utf-8", errors="replace") as file:
                text, heartbeat = file.read(), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None
        try:
            owner = json.loads(text)
        except ValueError:
            owner = None
        return owner if isinstance(owner, dict) else {}, heartbeat

    def _is_mine(self) -> bool:
        holder = self._read()
        return holder is not None and holder[0].get("token") == self.me["token"]

    def _beat(self) -> None:
        # Not `held`: a save that takes minutes holds it, and must not look like death.
        while not self._released.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                if self._is_mine():
                    os.utime(self.path)


def _here() -> dict[str, str]:
    """The scope of process numbers: this machine, whatever others have its name, until its next
    start; or a container on it with its own numbers."""
    namespace, boot = Path("/proc/self/ns/pid"), Path("/proc/sys/kernel/random/boot_id")
    return {
        "host": socket.gethostname(),
        "boot": boot.read_text().strip() if boot.exists() else "",
        "namespace": os.readlink(namespace) if namespace.exists() else "",
    }


def _name(owner: Owner) -> str:
    job = f" (Slurm job {owner['job']})" if owner.get("job") else ""
    return f"process {owner.get('pid', '?')} on {owner.get('host', 'an unknown machine')}{job}"


def _born(process: int) -> str | None:
    """When a process of this machine began, as its kernel states it; None if it is not alive."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _lives(owner: Owner) -> bool | None:
    """Whether the owner is alive, which a suspended one is without a heartbeat; None where only the
    heartbeat can tell: on another machine, and without /proc."""
    if not owner.get("born") or any(owner.get(key) != value for key, value in _here().items()):
        return None
    return _born(owner.get("pid", 0)) == owner["born"]


class StateFolder(Lock):
    """A folder with the newest states of one training run, owned while the `with` block lasts."""

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        with contextlib.suppress(OSError):
            self.folder.rmdir()  # if it was cleared

    def save(self, step: int, content: dict[str, Any]) -> None:
        """Store `content`, tensors and plain values, as the newest state; keep the previous one."""
        import torch

        buffer = io.BytesIO()
        torch.save(content, buffer)
        payload = buffer.getvalue()
        with self.held(), atomic_write(self.file(step)) as file:
            file.write(hashlib.sha256(payload).digest() + payload)
        with self.held():
            for old in self._files()[2:]:
                old.unlink()

    def file(self, step: int) -> Path:
        """The file of the state after a step."""
        return self.folder / f"step-{step:09d}.state"

    def load(self) -> dict[str, Any] | None:
        """The newest intact state, or None; names corrupted files on stderr."""
        newest = self.newest()
        return newest and newest[1]

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest intact state behind its file, or None; names corrupted files on stderr.

        Raises `UserError` for a file that is intact but was not written by `save`.
        """
        import torch

        for path in self._files():
            content = path.read_bytes()
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                try:
                    payload = io.BytesIO(content[32:])
                    state = torch.load(payload, map_location="cpu", weights_only=True)
                except Exception as error:  # of a dozen kinds
                    kind = type(error).__name__
                    raise UserError(f"{path} is not a state ({kind}): remove it") from None
                return path, state
            print(f"{path} is damaged: going back to the state before it", file=sys.stderr)
        return None

    def keep(self) -> None:
        """Mark the training run as finished, for `remove_finished`."""
        with self.held():
            (self.folder / FINISHED).touch()

    def clear(self) -> None:
        """Remove every state and then everything else in the folder except the lock."""
        with self.held():
            for path in [*self._files(), *self.folder.iterdir()]:
                if path.is_dir():
                    shutil.rmtree(path)
                elif path not in (self.path, self.guard):
                    path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.state"), reverse=True)


def owner_of(folder: Path) -> tuple[Owner, bool] | None:
    """Who owns a folder, or owned it last, and whether it still does: it is alive on this machine,
    or has sent a heartbeat lately. None: nobody since it was left in order."""
    holder = Lock(folder)._read()
    if holder is None:
        return None
    owner, heartbeat = holder
    lives = _lives(owner)
    recently = time.time() - heartbeat < STALE_SECONDS
    return owner | {"seconds": heartbeat - owner.get("since", heartbeat)}, (
        recently if lives is None else lives
    )


def remove_finished(states: Path, cells: Path) -> None:
    """Remove the kept states of training runs whose results are in `cells`, except those in use.

    states: holds <cell>/<version>/ for each unfinished run, just as `cells` holds <cell>/.
    """
    for mark in list(states.rglob(FINISHED)):
        results = cells / mark.parents[1].relative_to(states)
        if (results / "manifest.json").exists():
            with contextlib.suppress(UserError), StateFolder(mark.parent, _be_off) as folder:
                folder.clear()
            with contextlib.suppress(OSError):
                os.removedirs(mark.parents[1])


def _be_off() -> None:
    raise UserError("in use")


INTERRUPTED = 3  # exit status of a run that has saved its state and can go on


class StopRequest:
    """Whether to save and exit: after SIGTERM or SIGUSR1, or shortly before Slurm's time limit."""

    def __init__(self) -> None:
        self._signalled = False
        # One that has passed is that of another job, in whose shell this one was started.
        end = whole_number("SLURM_JOB_END_TIME") or 0
        self._deadline = end - TIME_LIMIT_MARGIN_SECONDS if end > time.time() else math.inf
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
        return self._signalled or time.time() > self._deadline

    def _note(self, *_: object) -> None:
        self._signalled = True
