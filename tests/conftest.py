"""Every test runs on the CPU at one thread per process, offline and without a display."""

import os

import pytest
from checkout import Checkout, copy_checkout

import rocm_core  # noqa: F401  (before any test imports torchvision, which it repairs)

os.environ.update(
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="passive",
    CUDA_VISIBLE_DEVICES="",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    TOKENIZERS_PARALLELISM="false",
)

# Files that take minutes come before those that take seconds: no worker ends long after the others.
SLOWEST_FIRST = ("slurm", "end_to_end", "judges", "workflow", "study")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {folder: rank for rank, folder in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.parent.name, len(ranks)))


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy of this checkout without results; tests must leave it as it is."""
    return copy_checkout(tmp_path_factory.mktemp("pristine"))
