"""Every test runs on the CPU at one thread per process, offline and without a display."""

import os

import pytest

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
