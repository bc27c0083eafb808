"""A checkout in which every result already exists, made without training anything."""

import shutil
import time
from pathlib import Path

import pytest
from checkout import Checkout, copy_checkout

MATRIX = """\
name: matrix
world: shapes
policies:
  consistency: {model: weights/consistency, steps: 4, guidance_scale: 3.0}
scorers:
  hpsv2: weights/hpsv2
  aesthetic: weights/aesthetic
  blipscore: weights/blipscore
  gold: null
prompts:
  train: {source: lists/train.txt}
  validation: {source: shapes, count: 8, seed: 2}
rewards: [hpsv2, aesthetic]
methods:
  rocm-none:
  rocm-kl: {beta: 0.02}
  rocm-js: {beta: 0.5}
cells:
  aesthetic/rocm-js: {beta: 0.25}
training: {iterations: 4, snapshot_every: 2}
monitor: {prompts: 4}
"""


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy without results; tests must leave it as it is."""
    return copy_checkout(tmp_path_factory.mktemp("pristine"))


def finish(checkout: Checkout, config: str, text: str) -> None:
    """Write a configuration and, as empty files, all of its outputs; Snakemake knows their params.

    `--touch` records each job as done, as running it would.
    """
    (checkout.path / config).write_text(text)
    for name in ("consistency", "diffusion", "hpsv2", "aesthetic", "blipscore"):
        (checkout.path / "weights" / name).mkdir(parents=True)
        (checkout.path / "weights" / name / "model.safetensors").write_text(name)
    (checkout.path / "lists").mkdir()
    (checkout.path / "lists/train.txt").write_text("a red circle\na blue square\n")
    configfile = ["--configfile", config]
    summary = checkout.snakemake("--summary", "all", *configfile)
    outputs = [line.split("\t")[0] for line in summary.stdout.splitlines()[1:]]
    assert summary.returncode == 0 and outputs, summary.stderr
    for output in outputs:
        path = checkout.path / output
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if path.name == "snapshots" else path.touch()
    touched = checkout.snakemake("--cores", "1", "--touch", "--forceall", "all", *configfile)
    assert touched.returncode == 0, touched.stderr


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy in which all outputs of config/matrix.yaml exist."""
    checkout = copy_checkout(tmp_path_factory.mktemp("complete"))
    finish(checkout, "config/matrix.yaml", MATRIX)
    return checkout


@pytest.fixture
def finished(complete: Checkout, tmp_path: Path) -> Checkout:
    """The complete copy, to be edited."""
    shutil.copytree(complete.path, tmp_path / "checkout", symlinks=True)
    time.sleep(0.01)  # an edit is later than everything copied
    return Checkout(tmp_path / "checkout")
