"""kill -9 at random moments: what comes out is what an undisturbed run gives, bit for bit.

`ROCM_KILLS=100 python -m pytest -s tests/unit/test_kills.py` does it a hundred times.
"""

import json
import multiprocessing
import os
import random
import time

import pytest
import tiny

import rocm_core.training.job
from rocm_core.plugins import names
from rocm_core.training import train

KILLS = int(os.environ.get("ROCM_KILLS", "5"))
FEW_KILLS = 5

# What an algorithm needs beside the defaults of `tiny.settings`.
CHANGES = {
    "direct": {"divergence": "kl", "beta": {"target": 0.01, "start": 1.0}},
    "dpok": {"divergence": "kl", "beta": 0.01},
    "d3po": {"divergence": "kl", "beta": 0.1, "ratio_clip": 0.1, "images_per_prompt": 2},
}

parallel = multiprocessing.get_context("fork")  # a child need not import torch again


@pytest.mark.parametrize(
    "kills",
    [FEW_KILLS, pytest.param(max(20, KILLS), marks=pytest.mark.faults)]
    if KILLS == FEW_KILLS
    else [KILLS],
)
@pytest.mark.parametrize("algorithm", names("algorithms"))
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
