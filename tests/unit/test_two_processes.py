"""Two processes are one: equal gradients, and the weights of one process with the doubled batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes

pytestmark = pytest.mark.faults  # for its time

TESTS = Path(two_processes.__file__).parent


@pytest.fixture(scope="module")
def processes(model, tmp_path_factory):
    """What each of two processes, started as a job starts them, holds after every algorithm."""
    output = tmp_path_factory.mktemp("processes")
    ended = subprocess.run(
        [sys.executable, "-m", "rocm_core.commands.launch", "--processes", "2"]
        + [str(TESTS / "two_processes.py"), model, str(output)],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return [torch.load(output / f"process-{i}.pt", weights_only=True) for i in (0, 1)]


@pytest.mark.parametrize("algorithm", two_processes.CASES)
def test_two_processes_are_one_with_the_doubled_batch(algorithm, processes, model, reward):
    first, second = (process[algorithm] for process in processes)
    assert torch.equal(first["gradients"], second["gradients"])
    assert torch.equal(first["lora"], second["lora"])
    assert str(first["state"]) == str(second["state"])

    whole = two_processes.run(algorithm, model, batch_size=4)
    assert whole["gradients"].abs().amax(1).min() > 1e-6
    scale = float(whole["gradients"].abs().max())
    assert (first["gradients"] - whole["gradients"]).abs().max() < 3e-5 * scale
    assert whole["moved"] > 0.01
    assert (first["lora"] - whole["lora"]).abs().max() < 1e-6
    for ours, theirs in zip(first["rows"], whole["rows"], strict=True):
        for name, value in theirs.items():
            if name not in ("training_seconds", "peak_memory_gib") and value is not None:
                assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    if algorithm == "ppo":
        for prompt, rewards in whole["state"]["rewards"].items():
            assert first["state"]["rewards"][prompt] == pytest.approx(rewards, rel=1e-5)
            assert len(rewards) == 3
