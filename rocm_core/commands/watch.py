"""How far a grid is: what runs, what is finished, what is left, from the files alone.

`python -m rocm_core.commands.watch --configfile config/demo.yaml`, or `make watch`, beside a
Snakemake that runs, here or as Slurm jobs. On a terminal it is repeated until Ctrl-C.
"""

import argparse
import contextlib
import csv
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rocm_core.configuration import TrainingSettings
from rocm_core.errors import run
from rocm_core.grid import Artefacts, load_config
from rocm_core.jobs import duration, owner_of

RUNNING, STOPPED, WAITING, FINISHED = "running", "stopped", "waiting", "finished"


@dataclass(frozen=True)
class Training:
    """What is known of a cell's training. spent: seconds of its jobs, summed over processes."""

    cell: str
    settings: TrainingSettings
    state: str = WAITING
    step: int = 0
    spent: float = 0.0
    last: str = ""

    @property
    def pace(self) -> float | None:
        """Seconds per iteration; None before the first."""
        return self.spent / self.step if self.step and self.spent else None

    @property
    def left(self) -> int:
        """Iterations to come."""
        return self.settings.iterations - self.step


def look(files: Artefacts) -> list[Training]:
    """The trainings of a grid, in its order."""
    return [_look(files, name, cell.settings) for name, cell in files.cells.items()]


def _look(files: Artefacts, cell: str, settings: TrainingSettings) -> Training:
    manifest = files.layout.cell(cell).manifest
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        spent = float(json.loads(manifest.read_text(encoding="utf-8"))["job_seconds"])
        return Training(cell, settings, FINISHED, settings.iterations, spent)
    changed: dict[Path, float] = {}
    for one in (files.layout.states / cell).glob("*/"):
        with contextlib.suppress(FileNotFoundError):  # removed in between, as it has finished
            changed[one] = one.stat().st_mtime
    if not changed:
        return Training(cell, settings)
    folder = max(changed, key=changed.__getitem__)
    processes = max(1, files.config.resources.gpus)
    spent = sum(attempt.get("seconds", 0.0) for attempt in _attempts(folder / "attempts.json"))
    state, place = STOPPED, ""
    if holder := owner_of(folder):
        owner, lives = holder
        state = RUNNING if lives else STOPPED
        spent += owner["seconds"]
        job = f", job {owner['job']}" if owner.get("job") else ""
        place = f"on {owner.get('host', 'an unknown machine')}{job}"
    row = _last_row(files.layout.run(cell).history)
    shown = [f"{name} {float(row[key]):.4g}" for key, name in _COLUMNS.items() if row.get(key)]
    step = int(row.get("step") or 0)
    last = ", ".join(filter(None, [*shown, place]))
    return Training(cell, settings, state, step, processes * spent, last)


_COLUMNS = {"reward": "reward", "squared_distance": "d²"}


def _attempts(path: Path) -> list[dict]:
    """The finished attempts at a training; that of the present owner has no seconds yet."""
    with contextlib.suppress(OSError, ValueError):
        return list(json.loads(path.read_text(encoding="utf-8")))
    return []


def _last_row(path: Path) -> dict[str, str]:
    with contextlib.suppress(OSError), open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file)]
        return rows[-1] if rows else {}
    return {}


def to_come(trainings: Iterable[Training]) -> tuple[float, int]:
    """Seconds that unfinished trainings are likely to take, and of how many there is no telling.

    A training that has not begun is taken to be as fast as those of its algorithm and policy were.
    """
    trainings, seconds, unknown = list(trainings), 0.0, 0
    for one in trainings:
        alike = [t for t in trainings if _kind(t) == _kind(one) and t.pace]
        steps = sum(t.step for t in alike)
        pace = one.pace or (sum(t.spent for t in alike) / steps if steps else None)
        if one.left and pace is None:
            unknown += 1
        seconds += one.left * (pace or 0.0)
    return seconds, unknown


def _kind(training: Training) -> tuple[str, str]:
    return training.settings.algorithm, training.settings.policy


def report(files: Artefacts) -> str:
    """What `make watch` prints."""
    trainings = look(files)
    counts = {state: sum(one.state == state for one in trainings) for state in _STATES}
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    from_shards = sum(one.cell in files.layout.sharded for one in trainings)
    states += f", {from_shards} of them in {files.shards}" if from_shards else ""
    lines = [f"{files.layout.root}: {_trainings(len(trainings))}: {states}"]
    begun = [one for one in trainings if one.state in (RUNNING, STOPPED)]
    processes = max(1, files.config.resources.gpus)
    width = max((len(one.cell) for one in begun), default=0)
    for one in begun:
        left = f", {duration(one.left * one.pace / processes)} left" if one.pace else ""
        step = f"step {one.step} of {one.settings.iterations}"
        lines.append(f"  {one.cell:{width}}  {one.state}  {step}{left}  {one.last}".rstrip())
    made = {
        "images": files.samples("index.jsonl"),
        "scores": files.samples("scores.csv"),
        "evaluated snapshots": files.snapshot_scores(),
        "tables and figures": [files.layout.rendered(*one)[-1] for one in files.rendered()],
    }
    counted = (
        f"{name} {sum(path.exists() for path in paths)} of {len(paths)}"
        for name, paths in made.items()
        if paths
    )
    lines.append(f"Made: {', '.join(counted)}")
    coming, unknown = to_come(trainings)
    unit = "GPU hours" if files.config.resources.gpus else "hours"
    spent = sum(one.spent for one in trainings)
    hours = [f"{spent / 3600:.2f} so far"]
    if coming or not unknown:
        hours.append(f"about {coming / 3600:.2f} to come")
    if unknown:
        hours.append(f"and {_trainings(unknown)} of a kind that has not begun")
    lines.append(f"Training, in {unit}: {', '.join(hours)}")
    return "\n".join(lines)


def _trainings(count: int) -> str:
    return f"{count} training{'s' * (count != 1)}"


_STATES = (FINISHED, RUNNING, STOPPED, WAITING)


def main() -> None:
    """Print how far a grid is, on a terminal again and again."""
    parser = argparse.ArgumentParser(description="How far a grid is; starts nothing.")
    parser.add_argument("--configfile", required=True)
    parser.add_argument("--every", type=float, default=5.0, help="seconds, on a terminal")
    parser.add_argument("--once", action="store_true", help="on a terminal, too")
    args = parser.parse_args()
    files = Artefacts(load_config(args.configfile))
    repeated = sys.stdout.isatty() and not args.once
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            text = report(files)
            print(f"\x1b[H\x1b[J{text}" if repeated else text, flush=True)
            if not repeated:
                return
            time.sleep(args.every)


if __name__ == "__main__":
    run(main)
