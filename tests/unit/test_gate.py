"""The gate on a real run of config/pilot.yaml on tiny twins, and each of its checks failed."""

import functools
import itertools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import tiny
import twins
import yaml
from checkout import ROOT

import rocm_core.commands.gate
import rocm_core.evaluation.scores
from rocm_core.analysis import Results, checks, read_anchors
from rocm_core.commands.render import render
from rocm_core.errors import UserError
from rocm_core.evaluation import generate, measure_folder, score_folder
from rocm_core.grid import Artefacts, load_config, make_grid
from rocm_core.prompts import make_prompts, write_prompts
from rocm_core.rewards import hpsv2, load_reward
from rocm_core.training import train
from rocm_core.weights import record

PILOT, TWINS = ROOT / "config/pilot.yaml", "pilot.yaml"
LISTS = {"train": ["cat", "dog", "fox", "owl"], "animals": ["ant", "bee"]}
LISTS["validation"] = [f"a {word}" for word in ("red x", "b c", "tall z", "q", "fish", "h j")]


def scaled_down() -> dict:
    """config/pilot.yaml with models of 8 pixels, few prompts and few, large steps."""
    config = yaml.safe_load(PILOT.read_text().replace("weights/", f"{twins.ROOT}/"))
    config |= {"resolution": 8, "prompts": {n: {"source": f"{n}.txt"} for n in LISTS}}
    for policy in config["policies"].values():
        policy["steps"] = 3
    config["training"] |= {"iterations": 12, "learning_rate": 0.02, "batch_size": 4}
    config["methods"]["rocm-kl"]["beta"] = 0.01
    for method in ("rlcm", "ddpo"):
        config["methods"][method] |= {"iterations": 3, "batch_size": 1, "accumulation_steps": 4}
    config["methods"]["ddpo"] |= {"images_per_prompt": 4, "updates_per_iteration": 2}
    return config


def make_run(config, files) -> None:
    """What the workflow's jobs do, in this process."""
    prompts = {name: make_prompts(settings) for name, settings in config.prompts.items()}
    for name, own in prompts.items():
        write_prompts(files.layout.prompts(name), own)
    for name, cell in files.cells.items():
        own, place = files.layout.cell(name), files.layout.state(name, "test")
        train(cell.settings, prompts[cell.settings.prompts], own.folder, place, "code")
    for source, prompt_set, images in files.folders():
        lora = files.layout.cell(source).lora if source in files.cells else None
        drawn = files.generation(source, images.steps)
        generate(drawn, prompts[prompt_set], lora, images.folder, "code")
        score_folder(config.scorer_paths(), images.folder, images.scores, "code")
        measure_folder(images.folder, images.readouts, files.clip, "code")
    render("figure", "figure2", config, config.root, config.root / "figures/figure2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the twins and a finished pilot on them."""
    root = tmp_path_factory.mktemp("pilot")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(hpsv2, "ARCHITECTURE", twins.ARCHITECTURE)
        patch.setattr(rocm_core.evaluation.scores, "load_reward", functools.cache(load_reward))
        twins.write_all()
        for name, policy in (("LCM_Dreamshaper_v7", "consistency"), ("dreamshaper-7", "diffusion")):
            tiny.write_pipeline(twins.ROOT / name, policy=policy)
        record([twins.ROOT])
        for name, texts in LISTS.items():
            Path(f"{name}.txt").write_text("".join(f"{text}\n" for text in texts))
        Path(TWINS).write_text(yaml.safe_dump(scaled_down(), sort_keys=False))
        config = load_config(TWINS)
        make_run(config, Artefacts(config))
    return root


@pytest.fixture
def pilot(place, monkeypatch):
    monkeypatch.chdir(place)
    return load_config(TWINS)


def test_prints(pilot):
    results = Results(pilot, pilot.root)
    anchors = read_anchors().model_copy(update={"resolution": 8})
    for one in checks(results, anchors):
        print(one)
    assert 0
