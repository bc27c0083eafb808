"""Every test runs on the CPU at one thread per process, offline and without a display."""

import os

import pytest
from checkout import Checkout, copy_checkout

os.environ.update(
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="passive",
    CUDA_VISIBLE_DEVICES="",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    TOKENIZERS_PARALLELISM="false",
)

# Folders whose files take minutes come first, so that no worker ends long after the others.
SLOWEST_FIRST = ("slurm", "end_to_end", "judges", "workflow", "study", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: SLOWEST_FIRST.index(item.path.parent.name))


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy of this checkout without results; tests must leave it as it is."""
    return copy_checkout(tmp_path_factory.mktemp("pristine"))
