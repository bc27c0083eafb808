"""`make preflight` says in one sentence what is missing, and tries everything that is there."""

import subprocess
import sys

import pytest
import tiny
from checkout import ROOT

import rocm_core.scoring
from rocm_core.config import parse_config
from rocm_core.preflight import ANCHORS, out_of_scale, preflight

CONFIG = {
    "name": "small",
    "world": "paper",
    "scorers": {"clipscore": "nowhere"},
    "prompts": {"train": {"source": "train.txt"}, "validation": {"source": "validation.txt"}},
    "rewards": ["clipscore"],
    "methods": {"rocm-none": {}, "rocm-kl": {"beta": "auto"}},
    "training": {"lora_targets": list(tiny.TARGETS), "batch_size": 1, "iterations": 100},
}


def test_without_weights_one_sentence_says_so(tmp_path):
    command = [sys.executable, "-m", "rocm_core.preflight", "--configfile", "config/paper.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if (ROOT / "weights.lock").exists():
        pytest.skip("this checkout has weights")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "files of weights and prompts are missing, such as weights/" in done.stderr
    assert "snakemake weights" in done.stderr


def test_everything_is_tried_once(model, reward, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rocm_core.scoring, "load_reward", lambda *_: reward)
    for name in ("train", "validation"):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {i}\n" for i in range(4)))
    policy = {"model": model, "steps": 3, "guidance_scale": 4.0}
    said: list[str] = []
    problems = preflight(parse_config(CONFIG | {"policies": {"consistency": policy}}), said.append)
    assert problems == []
    assert said[1] == "prompts: 4 to train on, 4 to validate on"
    assert [line.split(":")[0] for line in said[2:]] == [
        "consistency",
        "consistency",
        "clipscore/rocm-kl/seed-0",
    ]
    folder = tmp_path / "results/small/preflight"
    assert len(list(folder.glob("consistency/*.png"))) == 2
    history = (folder / "cells/clipscore/rocm-kl/seed-0/history.csv").read_text()
    assert len(history.splitlines()) == 4


@pytest.mark.parametrize("metric", ANCHORS)
def test_a_score_of_another_scale_is_named(metric):
    published = {"pickscore": 21.06, "hpsv2": 0.2491, "hpsv2_0": 0.2646, "aesthetic": 5.591}
    published |= {"imagereward": -0.124}
    assert not list(out_of_scale(metric, [published[metric]] * 2))
    # A cosine without its scale, per cent, an embedding that is not normalised, a raw reward's sum.
    wrong = {"pickscore": 0.21, "hpsv2": 24.05, "hpsv2_0": 26.46, "aesthetic": 40.0}
    wrong |= {"imagereward": 5.0}
    (message,) = out_of_scale(metric, [published[metric], wrong[metric]])
    assert metric in message and f"{ANCHORS[metric][0]:g}" in message
