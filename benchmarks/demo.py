"""Where the demo's time went: `python -m benchmarks.demo results/demo`, from the files it left.

A job's own work is what its manifest counts, `job_seconds`, from reading its models to writing its
results; the rest is the start of its process: the interpreter and imports.
"""

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.compare import RESULTS, describe
from rocm_core.provenance import atomic_write


def shares(root: Path) -> dict[str, dict[str, float]]:
    """{stage: {"work", "start-up"}} in seconds, summed over its jobs."""
    seconds: dict[str, dict[str, float]] = {}
    for file, whole in _jobs(root):
        stage, *name = file.relative_to(root / "benchmarks").with_suffix("").parts
        work = min(whole, _work(root, stage, "/".join(name)))
        total = seconds.setdefault(stage, {"work": 0.0, "start-up": 0.0})
        total["work"] += work
        total["start-up"] += whole - work
    return seconds


def wall_seconds(root: Path) -> float:
    """From the start of the first job to the end of the last, which is when its file is written.

    Of a run that made everything at once; Snakemake's own start comes on top.
    """
    ends = [(file.stat().st_mtime, whole) for file, whole in _jobs(root)]
    return max(end for end, _ in ends) - min(end - whole for end, whole in ends)


def _jobs(root: Path) -> Iterator[tuple[Path, float]]:
    """What Snakemake has written of each job, and the seconds that it took."""
    for file in sorted((root / "benchmarks").rglob("*.tsv")):
        with open(file, newline="") as rows:
            yield file, sum(float(row["s"]) for row in csv.DictReader(rows, delimiter="\t"))


def _work(root: Path, stage: str, name: str) -> float:
    """Seconds that a job of this stage spent on what it is for."""
    if stage == "train":
        return _manifest(root / "cells" / name / "manifest.json")
    if stage == "evaluate":
        manifests = ("manifest.json", "scores.manifest.json", "readouts.manifest.json")
        return sum(_manifest(root / "samples" / name / manifest) for manifest in manifests)
    if stage == "snapshots":
        return _manifest(root / "samples" / name / "snapshots/manifest.json")
    if stage == "render":
        places = (root / folder / f"{name}.manifest.json" for folder in ("", "tables", "figures"))
        return sum(_manifest(place) for place in places if place.exists())
    return 0.0


def _manifest(path: Path) -> float:
    return json.loads(path.read_text())["job_seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path, help="results of a finished run")
    parser.add_argument("--output", type=Path, default=RESULTS / "demo.json")
    args = parser.parse_args()
    record: dict[str, Any] = describe("cpu") | {
        "wall_seconds": round(wall_seconds(args.root), 1),
        "seconds": shares(args.root),
    }
    with atomic_write(args.output) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())
    for stage, parts in record["seconds"].items():
        print(stage, *(f"{name} {seconds:.0f} s" for name, seconds in parts.items()))
    print(f"from the first job to the last {record['wall_seconds']:.0f} s")


if __name__ == "__main__":
    main()
