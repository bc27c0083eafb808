"""kill -9 at random moments: what comes out is what an undisturbed run gives, bit for bit.

`ROCM_KILLS=100 python -m pytest -s -m faults tests/unit/test_kills.py` does it a hundred times.
"""

import fcntl
import json
import multiprocessing
import os
import random
import signal
import time

import pytest
import tiny

import rocm_core.jobs.state
import rocm_core.training.job
from rocm_core.plugins import names
from rocm_core.training import train

FEW_KILLS, KILLS = 3, int(os.environ.get("ROCM_KILLS", "10"))

# What an algorithm needs beside the defaults of `tiny.settings`.
CHANGES = {
    "direct": {"divergence": "kl", "beta": {"target": 0.01, "start": 1.0}},
    "dpok": {"divergence": "kl", "beta": 0.01},
    "d3po": {"divergence": "kl", "beta": 0.1, "ratio_clip": 0.1, "images_per_prompt": 2},
    "grpo": {"divergence": "kl", "beta": 0.1, "images_per_prompt": 2},
    "hybrid": {"images_per_prompt": 2},
    "rebel": {"images_per_prompt": 2, "inner_epochs": 2},
}

parallel = multiprocessing.get_context("fork")  # a child need not import torch again


@pytest.mark.parametrize(
    ("algorithm", "kills"),
    [
        ("direct", FEW_KILLS),
        *(pytest.param(a, KILLS, marks=pytest.mark.faults) for a in names("algorithms")),
    ],
)
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(
    model, reward, tmp_path, monkeypatch, algorithm, kills
):
    monkeypatch.setattr(rocm_core.training.job, "SAVE_SECONDS", 0.0)
    changes = {"snapshot_every": 2, "ema_decay": 0.9} | CHANGES.get(algorithm, {})
    settings = tiny.settings(model=model, algorithm=algorithm, **changes)

    def start(name):
        folder = tmp_path / name
        child = parallel.Process(
            target=train,
            args=(settings, tiny.PROMPTS, folder / "cell", folder / "state", "f00d"),
            kwargs={"keep_state": True},
        )
        child.start()
        return child

    def learned(name):
        return {f.name: f.read_bytes() for f in (tmp_path / name).glob("cell/**/*.safetensors")}

    began = time.monotonic()
    child = start("undisturbed")
    child.join()
    duration = time.monotonic() - began
    assert child.exitcode == 0

    chance, killed, runs = random.Random(kills), 0, 0
    while killed < kills:
        runs, attempts = runs + 1, 1
        while True:
            child = start(str(runs))
            child.join(chance.uniform(0, 1.1 * duration) if killed < kills else None)
            child.kill()
            child.join()
            if child.exitcode == 0:
                break
            assert child.exitcode == -9
            killed, attempts = killed + 1, attempts + 1
        assert learned(str(runs)) == learned("undisturbed")
        manifest = json.loads((tmp_path / str(runs) / "cell/manifest.json").read_text())
        starts = [start for start in manifest["resumed_after"] if start is not None]
        assert starts == sorted(starts) and len(starts) <= manifest["attempts"] <= attempts
    print(f"{algorithm}: {killed} kills in {runs} runs, {duration:.1f} s each if undisturbed")


def stop_between_writes(process, guard):
    """In the middle of one it holds the guard, so that its state cannot be taken over."""
    while True:
        os.kill(process, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(process, os.WUNTRACED)[1])
        with open(guard) as file:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.kill(process, signal.SIGCONT)
        time.sleep(0.01)


def test_a_run_that_was_stopped_and_taken_for_dead_leaves_its_successors_results_alone(
    model, reward, tmp_path, monkeypatch
):
    """Its machine stood still for so long that another one took its state over."""
    monkeypatch.setattr(rocm_core.training.job, "SAVE_SECONDS", 0.0)
    for name, seconds in {"HEARTBEAT": 0.05, "POLL": 0.1, "STALE": 2.0}.items():
        monkeypatch.setattr(rocm_core.jobs.state, f"{name}_SECONDS", seconds)
    settings = tiny.settings(model=model, snapshot_every=2, iterations=20)
    here = rocm_core.jobs.state._here()

    def start(name, host):
        monkeypatch.setattr(rocm_core.jobs.state, "_here", lambda: here | {"host": host})
        child = parallel.Process(
            target=train,
            args=(settings, tiny.PROMPTS, tmp_path / name, tmp_path / f"{name}-state", "f00d"),
        )
        child.start()
        return child

    def files(name):
        return {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*.safetensors")
        }

    undisturbed = start("undisturbed", "a")
    stopped = start("run", "a")
    while not list(tmp_path.glob("run-state/step-*.state")):
        time.sleep(0.01)
    stop_between_writes(stopped.pid, tmp_path / "run-state/lock.guard")
    successor = start("run", "b")
    successor.join()
    undisturbed.join()
    assert successor.exitcode == undisturbed.exitcode == 0
    written = files("run")
    os.kill(stopped.pid, signal.SIGCONT)
    stopped.join()
    assert stopped.exitcode == 1
    assert files("run") == written == files("undisturbed") and len(written) == 11
    assert not (tmp_path / "run-state").exists()  # which the successor has removed
