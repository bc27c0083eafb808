"""Every test runs on the CPU at one thread per process, offline and without a display."""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from checkout import ROOT, Checkout, copy_checkout

import rocm_core  # noqa: F401  (before any test imports torchvision, which it repairs)

os.environ.update(
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="passive",
    CUDA_VISIBLE_DEVICES="",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    TOKENIZERS_PARALLELISM="false",
)
os.environ.pop("COLUMNS", None)  # xdist's workers have one of 80, as if there were a terminal

# Files that take half a minute or more come first: no worker ends long after the others.
SLOWEST_FIRST = (
    *("test_faults", "test_grid", "test_whole_workflow", "test_few_step", "test_kills"),
    *("test_plugins", "test_pilot", "test_commands", "test_training", "test_figures"),
    *("test_accepting", "test_agreement", "test_reruns", "test_claims", "test_page"),
    *("test_compensation", "test_memory", "test_two_processes", "test_compile", "test_weights"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: (ranks.get(item.path.stem, len(ranks)), item.path))


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector, which measuring a training's memory
    calls, need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Python that starts in no time: see `forking_python`."""
    folder = tmp_path_factory.mktemp("python")
    command = [sys.executable, "-P", ROOT / "tests/forking_python.py", folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as server:
        while not (folder / "python").exists():
            assert server.poll() is None
            time.sleep(0.1)
        yield str(folder / "python")


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory, executable: str) -> Checkout:
    """A copy of this checkout without results, in a folder whose name wants care; tests must leave
    it as it is."""
    return copy_checkout(tmp_path_factory.mktemp("it's a clöne"), executable)
