"""Can this machine run a configuration? Loads every model, scores two images, trains three steps.

Where published packages are asked for, they score the two images as well and must agree with ours.

`python -m rocm_core.commands.preflight --configfile config/paper.yaml`, or `make preflight`:
minutes on the first GPU that has the weights, instead of hours until a job finds out. Images,
scores and LoRAs stay in results/<name>/preflight to be looked at.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rocm_core.analysis import read_anchors
from rocm_core.configuration import Config
from rocm_core.errors import UserError, run
from rocm_core.grid import (
    Cell,
    generation_settings,
    load_config,
    make_grid,
    needed,
    searched,
    settle,
    standardised,
)
from rocm_core.jobs import require_gpus
from rocm_core.plugins import ROOT
from rocm_core.prompts import Prompt, make_prompts
from rocm_core.provenance import CellFiles, Layout
from rocm_core.weights import check_weights, to_fetch

STEPS = 3
PUBLISHED = ROOT / ".venv-judges/bin/python"
DISAGREEMENT = 0.01  # more than half precision, in which hpsv2 computes on a GPU


def preflight(config: Config, say: Callable[[str], None] = print) -> list[str]:
    """What stands in the way of running `config` here, one sentence per problem.

    `say` is told what was done and how long it took. Raises `UserError` for what leaves nothing
    more to try.
    """
    paths = needed(config)
    if missing := [path for path in paths if not Path(path).is_file()]:
        raise UserError(
            f"{len(missing)} of {len(paths)} files of weights and prompts are missing, such as"
            f" {missing[0]} ({to_fetch(paths)}): fetch them with `snakemake weights`, where there"
            " is a network"
        )
    for path in paths:
        check_weights(path)
    say(f"weights: {len(paths)} files are as weights.lock lists them")
    train = make_prompts(config.prompts["train"])
    validation = make_prompts(config.prompts["validation"], train)
    say(f"prompts: {len(train)} to train on, {len(validation)} to validate on")
    require_gpus(config.resources.gpus)
    folder = Layout(config.root).preflight
    shutil.rmtree(folder, ignore_errors=True)
    cells = make_grid(config)
    policies = dict.fromkeys(cell.settings.policy for cell in cells)
    problems = list(_check_resolution(config, policies, say))
    for policy in policies:
        problems += _draw_and_score(config, policy, validation[:2], folder / policy, say)
    for cell in {(c.settings.policy, c.settings.algorithm): c for c in cells}.values():
        _train(cell, train, folder / "cells", say)
    return problems


def _check_resolution(
    config: Config, policies: Iterable[str], say: Callable[[str], None]
) -> Iterator[str]:
    """Methods are compared at one size, which at least one of the base models is made for."""
    from rocm_core.policies import own_resolution

    made_for = {policy: own_resolution(config.policies[policy].model) for policy in policies}
    sizes = {policy: config.resolution or own for policy, own in made_for.items()}
    for policy, own in made_for.items():
        say(f"{policy}: images of {sizes[policy]} pixels; the base model is made for {own}")
    text = ", ".join(f"{policy} for {own}" for policy, own in made_for.items())
    if len(set(sizes.values())) > 1:
        yield f"the base models are made for different sizes ({text}): set resolution to one"
    elif config.resolution not in (None, *made_for.values()) and any(made_for.values()):
        yield (
            f"resolution is {config.resolution}, but no base model is made for that ({text}):"
            " correct it"
        )


def _draw_and_score(
    config: Config, policy: str, prompts: list[Prompt], folder: Path, say: Callable[[str], None]
) -> Iterator[str]:
    from rocm_core.evaluation import generate, score_folder

    began = time.monotonic()
    settings = generation_settings(config, policy)
    settings = settings.model_copy(update={"batch_size": len(prompts)})
    generate(settings, prompts, None, folder, "preflight")
    say(f"{policy}: {len(prompts)} images in {folder}, {time.monotonic() - began:.0f} s")
    for metric, weights in config.scorer_paths().items():
        began = time.monotonic()
        output = folder / f"{metric}.csv"
        score_folder({metric: weights}, folder, output, "preflight")
        scores = _values(output, metric)
        say(f"{policy}: {metric} {_text(scores)}, {time.monotonic() - began:.0f} s")
        if config.world == "paper":
            yield from out_of_scale(metric, scores)
    if config.published:
        yield from _score_published(config, policy, folder, say)


def _score_published(
    config: Config, policy: str, folder: Path, say: Callable[[str], None]
) -> Iterator[str]:
    """The published packages on the same images, in the environment that `make judges` makes."""
    if not PUBLISHED.exists():
        yield "the published scorers are not here: run `make judges`, or Snakemake with --sdm conda"
        return
    output = folder / "published.csv"
    scorers = json.dumps({name: config.scorers[name] for name in config.published})
    done = subprocess.run(
        [
            *(PUBLISHED, ROOT / "workflow/scripts/score_published.py"),
            *("--scorers", scorers, "--samples", folder),
            *("--output", output, "--fingerprint", "preflight"),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        yield f"the published scorers failed with exit status {done.returncode}: {last}"
        return
    for name in config.published:
        ours, theirs = _values(folder / f"{name}.csv", name), _values(output, name)
        say(f"{policy}: {name} as published {_text(theirs)}")
        if max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) > DISAGREEMENT:
            yield f"{name} gives {_text(ours)}, its package {_text(theirs)}: see which of them errs"


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _values(scores: Path, metric: str) -> list[float]:
    return [float(row["value"]) for row in _rows(scores) if row["metric"] == metric]


def _text(scores: list[float]) -> str:
    return ", ".join(f"{score:.4g}" for score in scores)


def out_of_scale(metric: str, scores: list[float]) -> Iterator[str]:
    """A sentence if scores are not where those of single images lie by `read_anchors`; a
    scorer without its logit scale, normalisation or resize is further off."""
    anchor = read_anchors().scores.get(metric)
    if anchor and any(abs(score - anchor.centre) > anchor.image for score in scores):
        yield (
            f"{metric} gives {_text(scores)}, not {anchor.centre:g} ± {anchor.image:g} as"
            " published: look at the images, and check its weights and preprocessing"
        )


def _train(cell: Cell, prompts: list[Prompt], folder: Path, say: Callable[[str], None]) -> None:
    from rocm_core.training import train

    changes: dict = {"iterations": STEPS, "snapshot_every": 0, "warmup_steps": 0}
    output = folder / cell.name
    first = {key: search.search[0] for key, search in searched(cell.settings).items()}
    settings = settle(cell.settings, first).model_copy(update=changes)
    # Nobody has measured the base's scores yet; what is learned does not matter here.
    plain = {name: {"mean": 0.0, "std": 1.0} for name in standardised(settings)}
    train(settings, prompts[:64], output, output / "state", "preflight", standards=plain)
    last = _rows(CellFiles(output).history)[-1]
    say(
        f"{cell.name}: {STEPS} steps in {float(last['training_seconds']):.1f} s, at most"
        f" {float(last['peak_memory_gib']):.1f} GiB"
    )


def main() -> int:
    """Print the problems; returns 1 where there are any."""
    parser = argparse.ArgumentParser(description="Try what a configuration needs, in minutes.")
    parser.add_argument("--configfile", required=True)
    problems = preflight(load_config(parser.parse_args().configfile))
    print("\n".join(problems) or "ready")
    return 1 if problems else 0


if __name__ == "__main__":
    run(main)
