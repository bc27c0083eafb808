"""A checkout on the cluster, and Snakemake at work in it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from checkout import ROOT
from cluster import Cluster

from rocm_core.grid import load_config, make_grid
from rocm_core.prompts import read_prompts
from rocm_core.training import train

IMPATIENT = Path(__file__).with_name("impatient.py")
# Slurm gives jobs a device file that is no GPU: only their launchers take it for one.
FAKE_GPU = {"PYTHONPATH": str(ROOT / "tests/fake_gpus"), "FAKE_GPUS": "GPU-of-the-node"}
SMALL, DEMO = "cluster", "demo"  # grids: config/<name>.yaml
CELL = "hpsv2/rocm-kl/seed-0"
ITERATIONS, SNAPSHOT = 20, 5
MINUTES = 30  # for whatever should happen; a machine may be slow
LORA = f"cells/{CELL}/lora.safetensors"


class Site:
    """A folder with the project, where `snakemake --profile slurm` works on the grid `name`."""

    def __init__(self, path: Path, cluster: Cluster, name: str = SMALL) -> None:
        self.path, self.cluster = path, cluster
        self.config, self.results = f"config/{name}.yaml", path / "results" / name
        self.started: list[subprocess.Popen[str]] = []

    def snakemake(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start `snakemake --profile slurm <arguments>` on the grid; it writes snakemake.log."""
        with open(self.path / "snakemake.log", "a") as log:
            # The profile's own span would keep each Snakemake for a minute after its last job.
            process = subprocess.Popen(
                [sys.executable, IMPATIENT, "--profile", "slurm", *arguments]
                + ["--configfile", self.config, "--max-jobs-per-timespan", "100/1s"],
                cwd=self.path,
                env=self.cluster.environment | FAKE_GPU | environment,
                stdout=log,
                stderr=log,
                text=True,
            )
        self.started.append(process)
        return process

    def train(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start Snakemake on one cell."""
        lora = self.results.relative_to(self.path) / LORA
        return self.snakemake(str(lora), *arguments, **environment)

    def wait(self, condition: Callable[[], object]) -> None:
        """Until `condition()` holds, which takes a Snakemake that runs."""

        def holds() -> object:
            found = condition()
            assert found or any(p.poll() is None for p in self.started), self.said()[-5000:]
            return found

        self.cluster.wait(holds, MINUTES * 60)

    def said(self) -> str:
        """What Snakemake has said so far."""
        return (self.path / "snakemake.log").read_text()

    def finish(self, process: subprocess.Popen[str]) -> None:
        """Wait until Snakemake ends, and ends well."""
        status = process.wait(MINUTES * 60)
        assert status == 0, self.said()[-5000:]

    def unlock(self) -> None:
        """What a Snakemake that was killed leaves to be done."""
        self.finish(self.snakemake("--unlock"))

    @contextlib.contextmanager
    def paused_training(self, after: int = SNAPSHOT) -> Iterator[int]:
        """Hold the trainer still once it is past a step; yields the number of its Slurm job."""
        state = f"step-{after:09d}.state"
        self.wait(lambda: list(self.results.glob(f".state/**/{state}")))
        owner = self.owner()
        os.kill(owner["pid"], signal.SIGSTOP)
        try:
            yield int(owner["job"])
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(owner["pid"], signal.SIGCONT)

    def owner(self) -> dict[str, Any]:
        """Who trains the cell now."""
        (lock,) = self.results.glob(".state/**/lock.json")
        return json.loads(lock.read_text())

    def log(self) -> str:
        """What the last training of the cell said."""
        path = self.results / "logs/train" / f"{CELL}.log"
        return path.read_text() if path.exists() else ""

    def manifest(self) -> dict[str, Any]:
        return json.loads((self.results / "cells" / CELL / "manifest.json").read_text())

    def close(self) -> None:
        """End what is still running here and on the cluster, whole nodes if need be."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
        self.cluster.cancel_everything()


def learned(cell: Path) -> dict[str, bytes]:
    """What a training has learned: every LoRA, byte by byte, and its history but for the clock."""
    found = {str(path.relative_to(cell)): path.read_bytes() for path in cell.rglob("*.safetensors")}
    rows = [line.split(",") for line in (cell / "history.csv").read_text().splitlines()]
    kept = [
        i for i, name in enumerate(rows[0]) if name not in ("training_seconds", "peak_memory_gib")
    ]
    found["history.csv"] = "\n".join(",".join(row[i] for i in kept) for row in rows).encode()
    return found


def train_here(checkout: Path, config: str, folder: Path) -> dict[str, bytes]:
    """What the cell learns when nothing happens: trained without Snakemake and Slurm, on the
    prompts that the checkout has."""
    with contextlib.chdir(checkout):
        known = load_config(config)
        (settings,) = (c.settings for c in make_grid(known) if c.name == CELL)
        prompts = read_prompts(known.root / "prompts" / f"{settings.prompts}.jsonl")
        train(settings, prompts, folder / "cell", folder / "state", "f00d")
    return learned(folder / "cell")


def copy_site(prepared: Path, to: Path) -> None:
    """A copy to be damaged; what no test changes is shared."""
    shutil.copytree(prepared, to, symlinks=True, ignore=lambda *_: {"resources"})
    (to / "resources").symlink_to(prepared / "resources")
