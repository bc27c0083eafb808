"""What a training shows while it runs: lines of text, a live history, sample images, trackers.

Nothing here decides a number: it is told what the training has computed.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocm_core.errors import UserError
from rocm_core.provenance import RunFiles, atomic_write, write_csv

if TYPE_CHECKING:  # the environment of the published scorers has no pydantic
    from rocm_core.configuration import ProgressSettings, TrainingSettings

Row = Mapping[str, float | None]
# Without a network, and without an account, unless the user's environment says otherwise.
_OFFLINE = {"WANDB_MODE": "offline"}


class Progress:
    """What one process shows of a training; `close` it at the end.

    folder: `RunFiles` are written there. name: of the training, at the head of its lines. project:
    under which trackers file it. terminal: a file descriptor that gets the lines beside stderr.
    """

    def __init__(
        self,
        settings: ProgressSettings,
        folder: Path,
        name: str = "",
        project: str = "rocm",
        terminal: int | None = None,
    ) -> None:
        self.settings, self.files = settings, RunFiles(folder)
        self.name, self.project, self.terminal = name, project, terminal
        for tracker in settings.trackers:
            if importlib.util.find_spec(tracker) is None:
                raise UserError(
                    f"progress.trackers: {tracker} is not installed: pip install"
                    " 'rocm-core[trackers]', or leave it out"
                )
        self._trackers: dict[str, Any] = {}
        self._unwritten: list[Row] = []
        self._shown = self._began = time.monotonic()
        self.total = self._first = 0

    def begin(
        self, training: TrainingSettings, history: Sequence[Row], run: str, snapshots: Path
    ) -> None:
        """Go on after the rows of `history`: what was shown of later steps is taken back.

        run: the same text for all attempts of a training, and of no other. snapshots: the folder
        where they are kept until the training ends.
        """
        self.total, self._first = training.iterations, len(history)
        self.files.folder.mkdir(parents=True, exist_ok=True)
        self._link(snapshots)
        if not history:  # what an earlier training of that name has shown
            for old in (self.files.previews, self.files.tensorboard):
                shutil.rmtree(old, ignore_errors=True)
            self.files.history.unlink(missing_ok=True)
        else:
            rows = [[row[name] for name in history[0]] for row in history]
            write_csv(self.files.history, history[0], rows)
        for name in self.settings.trackers:
            self._trackers[name] = self._start(name, run, training.to_dict())
        self._shown = self._began = time.monotonic()

    def _start(self, name: str, run: str, settings: Mapping[str, Any]) -> Any:
        from accelerate.tracking import TensorBoardTracker, WandBTracker

        for variable, value in _OFFLINE.items():
            os.environ.setdefault(variable, value)
        if name == "tensorboard":
            files = self.files.tensorboard
            # Readers drop what an attempt that was killed has logged from this step on.
            tracker = TensorBoardTracker(files.name, files.parent, purge_step=self._first + 1)
        else:
            own = {"name": self.name or None, "dir": str(self.files.folder), "id": run}
            tracker = WandBTracker(self.project, config=dict(settings), resume="allow", **own)
        tracker.start()
        return tracker

    def step(self, row: Row) -> None:
        """Show a row of the history: to trackers now, in the file and in a line when due."""
        step = int(row["step"] or 0)
        numbers = {k: v for k, v in row.items() if v is not None and k != "step"}
        for tracker in self._trackers.values():
            tracker.log(numbers, step=step)
        self._unwritten.append(row)
        now = time.monotonic()
        if now - self._shown < self.settings.seconds and step < self.total:
            return
        self._shown = now
        self._write_rows()
        left = (now - self._began) / (step - self._first) * (self.total - step)
        self._say(f"{self._line(row)}, {duration(left)} left")

    def _write_rows(self) -> None:
        rows, self._unwritten = self._unwritten, []
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerows(row.values() for row in rows)
        if not self.files.history.exists():
            return write_csv(self.files.history, rows[0], (row.values() for row in rows))
        with open(self.files.history, "a", encoding="utf-8") as file:
            file.write(text.getvalue())  # at once: a reader finds whole rows

    def _line(self, row: Row) -> str:
        parts = [f"step {row['step']} of {self.total}: reward {row['reward']:.4g}"]
        if (distance := row.get("squared_distance")) is not None:
            parts.append(f"d² {distance:.4g}")
        return ", ".join(parts)

    def _say(self, line: str) -> None:
        line = f"{self.name}: {line}" if self.name else line
        print(line, file=sys.stderr, flush=True)
        if self.terminal is not None:
            with contextlib.suppress(OSError):  # nobody listens any more, or it was not passed on
                os.write(self.terminal, f"{line}\n".encode())

    def preview(self, step: int, images: Any) -> None:
        """Keep images `(N, H, W, 3)` of 8 bits, in NumPy, as one picture; give them to trackers."""
        from PIL import Image

        count, height, width, _ = images.shape
        across = math.ceil(math.sqrt(count))
        sheet = Image.new("RGB", (across * width, math.ceil(count / across) * height), "white")
        for place, image in enumerate(images):
            corner = (place % across * width, place // across * height)
            sheet.paste(Image.fromarray(image), corner)
        with atomic_write(self.files.preview(step)) as file:
            sheet.save(file, "PNG")
        for name, tracker in self._trackers.items():
            layout = {"dataformats": "NHWC"} if name == "tensorboard" else {}
            tracker.log_images({"previews": images}, step=step, **layout)

    def _link(self, snapshots: Path | None = None) -> None:
        """Show the snapshots of the unfinished training; None: no longer."""
        link = self.files.snapshots
        with contextlib.suppress(OSError):  # a file system may have no links
            if link.is_symlink():
                link.unlink()
            if snapshots:
                target = os.path.relpath(snapshots.resolve(), link.parent.resolve())
                link.symlink_to(target, target_is_directory=True)

    def close(self, finished: bool = False) -> None:
        """End the trackers; finished: what is also among the training's results goes."""
        while self._trackers:
            self._trackers.popitem()[1].finish()
        if finished:
            self._link()
            self.files.history.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.files.folder.rmdir()  # if nothing else is there


def duration(seconds: float) -> str:
    """Seconds in words: 12 s, 5 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
