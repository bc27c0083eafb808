"""A checkout in which every result already exists, made without training anything."""

import functools
from collections.abc import Callable
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
snapshots: {prompts: 4}
"""


@pytest.fixture(scope="session")
def plan(pristine: Checkout) -> Callable[..., str]:
    """`Checkout.plan` in the pristine copy; tests that ask for the same dry-run share it."""
    return functools.cache(pristine.plan)


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory, executable: str) -> Checkout:
    """A copy in which all outputs of config/matrix.yaml exist."""
    checkout = copy_checkout(tmp_path_factory.mktemp("complete"), executable)
    checkout.pretend("config/matrix.yaml", MATRIX)
    return checkout


@pytest.fixture
def finished(complete: Checkout, tmp_path: Path) -> Checkout:
    """The complete copy, to be edited."""
    return complete.copied(tmp_path / "checkout")
