"""`make preflight` says in one sentence what is missing, and tries everything that is there."""

import json
import subprocess
import sys

import pytest
import tiny
from checkout import ROOT

import rocm_core.commands.preflight
import rocm_core.evaluation.scores
from rocm_core.analysis import read_anchors
from rocm_core.commands.preflight import out_of_scale, preflight
from rocm_core.grid import parse_config

CONFIG = {
    "name": "small",
    "world": "paper",
    "scorers": {"clipscore": "nowhere"},
    "prompts": {"train": {"source": "train.txt"}, "validation": {"source": "validation.txt"}},
    "rewards": ["clipscore"],
    "methods": {"rocm-none": {}, "rocm-kl": {"beta": {"target": 0.01, "start": 1.0}}},
    "training": {"lora_targets": list(tiny.TARGETS), "batch_size": 1, "iterations": 100},
}


def test_without_weights_one_sentence_says_so(tmp_path):
    command = [
        sys.executable,
        "-m",
        "rocm_core.commands.preflight",
        "--configfile",
        "config/paper.yaml",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if (ROOT / "weights.lock").exists():
        pytest.skip("this checkout has weights")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "files of weights and prompts are missing, such as weights/" in done.stderr
    assert "snakemake weights" in done.stderr


def test_everything_is_tried_once(model, reward, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rocm_core.evaluation.scores, "load_reward", lambda *_: reward)
    for name in ("train", "validation"):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {i}\n" for i in range(4)))
    policy = {"model": model, "steps": 3, "guidance_scale": 4.0}
    said: list[str] = []
    problems = preflight(parse_config(CONFIG | {"policies": {"consistency": policy}}), said.append)
    assert problems == []
    assert said[1] == "prompts: 4 to train on, 4 to validate on"
    assert said[2] == "consistency: images of 8 pixels; the base model is made for 8"
    assert [line.split(":")[0] for line in said[3:]] == [
        "consistency",
        "consistency",
        "clipscore/rocm-kl/seed-0",
    ]
    folder = tmp_path / "results/small/preflight"
    assert len(list(folder.glob("consistency/*.png"))) == 2
    history = (folder / "cells/clipscore/rocm-kl/seed-0/history.csv").read_text()
    assert len(history.splitlines()) == 4


def test_a_cell_that_the_bases_scores_gate_is_tried_before_they_are_measured(
    model, reward, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rocm_core.evaluation.scores, "load_reward", lambda *_: reward)
    for name in ("train", "validation"):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {i}\n" for i in range(4)))
    gated = {
        "policies": {"consistency": {"model": model, "steps": 3, "guidance_scale": 4.0}},
        "scorers": {"clipscore": "nowhere", "blipscore": "nowhere"},
        "methods": {"rocm-kl": {"beta": 0.1, "gate_by": "blipscore"}},
    }
    said: list[str] = []
    assert preflight(parse_config(CONFIG | gated), said.append) == []
    assert said[-1].startswith("clipscore/rocm-kl/seed-0: ")


@pytest.mark.parametrize(
    ("resolution", "bases", "problem"),
    [
        (None, {"consistency": 8}, None),
        (None, {"consistency": 8, "diffusion": 12}, "different sizes (consistency for 8, diff"),
        (8, {"consistency": 8, "diffusion": 12}, None),
        (12, {"consistency": 8, "diffusion": 12}, None),
        (16, {"consistency": 8, "diffusion": 12}, "resolution is 16, but no base model is made"),
        (16, {"consistency": 8}, "resolution is 16, but no base model is made for that"),
    ],
)
def test_the_resolution_is_one_that_a_base_model_is_made_for(tmp_path, resolution, bases, problem):
    policies = {}
    for name, pixels in bases.items():
        for part, values in {
            "unet": {"sample_size": pixels // 2},
            "vae": {"block_out_channels": [8, 8]},
        }.items():
            (tmp_path / name / part).mkdir(parents=True)
            (tmp_path / name / part / "config.json").write_text(json.dumps(values))
        policies[name] = {"model": str(tmp_path / name), "steps": 3, "guidance_scale": 4.0}
    config = parse_config(CONFIG | {"policies": policies, "resolution": resolution})
    said: list[str] = []
    problems = [*rocm_core.commands.preflight._check_resolution(config, bases, said.append)]
    assert len(said) == len(bases)
    assert len(problems) == (problem is not None) and (problem or "") in "".join(problems)


PUBLISHED = """\
#!{python}
import csv, sys
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
if options["--scorers"] != '{{"hpsv2": "models/HPSv2"}}':
    sys.exit("error: it was asked for others")
with open(options["--output"], "w") as file:
    csv.writer(file).writerows([("prompt_id", "metric", "value"), ("a", "hpsv2", 0.2{digit})])
"""


def test_the_published_packages_score_the_same_images(tmp_path, monkeypatch):
    python = tmp_path / "python"
    monkeypatch.setattr(rocm_core.commands.preflight, "PUBLISHED", python)
    scorers = {"hpsv2": "models/HPSv2", "clipscore": "nowhere"}
    policies = {"consistency": {"model": "my/own", "steps": 3, "guidance_scale": 4.0}}
    config = parse_config(
        CONFIG | {"scorers": scorers, "policies": policies, "published": ["hpsv2"]}
    )
    (tmp_path / "hpsv2.csv").write_text("prompt_id,metric,value\na,hpsv2,0.25\n")

    def compare(asked=config):
        said: list[str] = []
        return [
            *rocm_core.commands.preflight._score_published(
                asked, "consistency", tmp_path, said.append
            )
        ], said

    assert compare() == (
        ["the published scorers are not here: run `make judges`, or Snakemake with --sdm conda"],
        [],
    )
    python.touch(0o755)
    python.write_text(PUBLISHED.format(python=sys.executable, digit=5))
    assert compare() == ([], ["consistency: hpsv2 as published 0.25"])
    python.write_text(PUBLISHED.format(python=sys.executable, digit=7))
    ((message,), _) = compare()
    assert message == "hpsv2 gives 0.25, its package 0.27: see which of them errs"
    config.scorers["hpsv2"] = "models/other"
    ((message,), _) = compare()
    assert message.endswith("exit status 1: error: it was asked for others")


@pytest.mark.parametrize("metric", read_anchors().scores)
def test_a_score_of_another_scale_is_named(metric):
    published = {"pickscore": 21.06, "hpsv2": 0.2491, "hpsv2_0": 0.2646, "aesthetic": 5.591}
    published |= {"imagereward": -0.124}
    assert not list(out_of_scale(metric, [published[metric]] * 2))
    # A cosine without its scale, per cent, an embedding that is not normalised, a raw reward's sum.
    wrong = {"pickscore": 0.21, "hpsv2": 24.05, "hpsv2_0": 26.46, "aesthetic": 40.0}
    wrong |= {"imagereward": 5.0}
    (message,) = out_of_scale(metric, [published[metric], wrong[metric]])
    assert metric in message and f"{read_anchors().scores[metric].centre:g}" in message
