"""config/pilot.yaml scaled down to random models, and anchors that its results meet."""

from pathlib import Path

import tiny
import twins
import yaml
from checkout import ROOT

from rocm_core.analysis import Anchors, Results, only, read_anchors
from rocm_core.weights import record

CONFIG = "config/small-pilot.yaml"
BASES = ("base-consistency", "base-diffusion")
NONE, KL, RLCM = (f"aesthetic/{method}/seed-0" for method in ("rocm-none", "rocm-kl", "rlcm"))
LISTS = {"train": ["cat", "dog", "fox", "owl"], "animals": ["ant", "bee"]}
LISTS["validation"] = [f"a {word}" for word in ("red x", "b c", "tall z", "q", "fish", "h j")]


def scaled_down() -> dict:
    """config/pilot.yaml with models of 8 pixels, few prompts and few, large steps."""
    config = yaml.safe_load(
        (ROOT / "config/pilot.yaml").read_text().replace("weights/", f"{twins.ROOT}/")
    )
    config |= {"resolution": 8, "prompts": {n: {"source": f"{n}.txt"} for n in LISTS}}
    for policy in config["policies"].values():
        policy["steps"] = 3
    config |= {"rewards": ["aesthetic"], "cells": {}}
    config["resources"] |= {"gpus": 0, "threads": 1}
    config["training"] |= {"iterations": 12, "learning_rate": 0.02, "batch_size": 4}
    config["methods"]["rocm-kl"]["beta"] = 0.01
    for method in ("rlcm", "ddpo"):
        config["methods"][method] |= {"iterations": 3, "batch_size": 1, "accumulation_steps": 4}
    config["methods"]["ddpo"] |= {"images_per_prompt": 4, "updates_per_iteration": 2}
    return config


def write_pilot() -> None:
    """Write the configuration, its models and its lists of prompts to the current folder."""
    twins.write_all()
    for name, policy in (("LCM_Dreamshaper_v7", "consistency"), ("dreamshaper-7", "diffusion")):
        tiny.write_pipeline(twins.ROOT / name, policy=policy)
    record([twins.ROOT])
    for name, texts in LISTS.items():
        Path(f"{name}.txt").write_text("".join(f"{text}\n" for text in texts))
    Path(CONFIG).parent.mkdir(exist_ok=True)
    Path(CONFIG).write_text(yaml.safe_dump(scaled_down(), sort_keys=False))


def anchors_of(results: Results) -> Anchors:
    """Anchors that this run meets as one of the published models would meet the project's."""

    def between(one, other):
        return {"centre": (one + other) / 2, "mean": 0.51 * abs(one - other)}

    given, scores = read_anchors().to_dict(), results.final.groupby(["method", "metric"])["value"]
    means = scores.mean()
    for metric, anchor in given["scores"].items():
        anchor |= between(*(means[base, metric] for base in BASES))
    for one in given["differences"]:
        one |= between(*(means[base, one["more"]] - means[base, one["less"]] for base in BASES))
    rewards = only(results.histories, method="rlcm")["mean_reward"]
    given["curve"]["points"] = [[4, rewards.iloc[0]], [12, rewards.iloc[-1]]]
    given |= {"squared_distance": 100, "tflop_per_second": [1e-3, 1e6], "memory_gib": [0.01, 100]}
    return Anchors.from_dict(given | {"resolution": 8})
