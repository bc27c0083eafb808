"""Stopping and resuming: the state of an unfinished training run, and the request to stop.

A state is written atomically, by the one owner of its folder, and checked when read.
"""

import contextlib
import hashlib
import io
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from rocm_core.jobs.lock import Lock
from rocm_core.provenance import atomic_write

TIME_LIMIT_MARGIN_SECONDS = 120.0
FINISHED = "finished"  # marks a state that is kept although its training run has ended


class StateFolder:
    """A folder with the newest states of one training run, owned while the `with` block lasts.

    give_up: called while waiting for another owner; may raise.
    """

    def __init__(self, folder: Path, give_up: Callable[[], None] = lambda: None) -> None:
        self.folder = folder
        self.lock = Lock(folder, give_up)

    def __enter__(self) -> Self:
        self.lock.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.lock.__exit__(*exception)
        with contextlib.suppress(OSError):
            self.folder.rmdir()  # if it was cleared

    def save(self, step: int, content: dict[str, Any]) -> None:
        """Store `content`, tensors and plain values, as the newest state; keep the previous one."""
        import torch

        buffer = io.BytesIO()
        torch.save(content, buffer)
        payload = buffer.getvalue()
        with self.lock.held(), atomic_write(self.folder / f"step-{step:09d}.state") as file:
            file.write(hashlib.sha256(payload).digest() + payload)
        for old in self._files()[2:]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        """The newest intact state, or None; names corrupted files on stderr."""
        import torch

        for path in self._files():
            content = path.read_bytes()
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                return torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
            print(f"{path} is damaged: going back to the state before it", file=sys.stderr)
        return None

    def keep(self) -> None:
        """Mark the training run as finished, for `remove_finished`."""
        (self.folder / FINISHED).touch()

    def clear(self) -> None:
        """Remove every state and then everything else in the folder except the lock."""
        for path in [*self._files(), *self.folder.iterdir()]:
            if path.is_dir():
                shutil.rmtree(path)
            elif path not in (self.lock.path, self.lock.guard):
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.state"), reverse=True)


def remove_finished(states: Path, cells: Path) -> None:
    """Remove the kept states of training runs whose results are in `cells`, except those in use.

    states: holds <cell>/<version>/ for each unfinished run, just as `cells` holds <cell>/.
    """
    for mark in list(states.rglob(FINISHED)):
        results = cells / mark.parents[1].relative_to(states)
        if (results / "manifest.json").exists() and not (mark.parent / "lock.json").exists():
            StateFolder(mark.parent).clear()
            os.removedirs(mark.parent)


class StopRequest:
    """Whether to save and exit: after SIGTERM or SIGUSR1, or shortly before Slurm's time limit."""

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
