"""Plug-ins of all seven kinds, as docs/adding.md shows them: in the checkout and outside of it."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from checkout import Checkout, copy_checkout
from PIL import Image

DOCUMENTED = {
    "rewards": "rocm_core/rewards/redness.py",
    "divergences": "rocm_core/divergences/renyi.py",
    "algorithms": "rocm_core/algorithms/weighted.py",
    "chains": "rocm_core/policies/chains/half_noise.py",
    "denoisers": "rocm_core/policies/denoisers/soft.py",
    "tables": "rocm_core/tables/gains.py",
    "figures": "rocm_core/figures/histogram.py",
}
PROMPTS = 4


def small(name: str, **changes: Any) -> dict[str, Any]:
    """A configuration of the embedded world that takes seconds."""
    return {
        "name": name,
        "world": "shapes",
        "prompts": {
            "train": {"source": "shapes", "count": 4, "seed": 1},
            "validation": {"source": "shapes", "count": PROMPTS, "seed": 2, "held_out": True},
        },
        "training": {"iterations": 2, "batch_size": 2, "snapshot_every": 0, "learning_rate": 1e-3},
        "snapshots": {"prompts": 0},
    } | changes


def finish(checkout: Checkout, config: dict[str, Any], target: str) -> Checkout:
    path = f"config/{config['name']}.yaml"
    (checkout.path / path).write_text(yaml.safe_dump(config, sort_keys=False))
    done = checkout.snakemake(target, "--cores", "2", "--show-failed-logs", "--configfile", path)
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory, executable: str) -> Checkout:
    """A finished run with one new file of each kind in the checkout."""
    checkout = copy_checkout(tmp_path_factory.mktemp("an extended clöne's"), executable)
    for file in DOCUMENTED.values():
        assert not (checkout.path / file).exists()
        (checkout.path / file).write_text(tiny.documented(file))
    model = checkout.path / "models/soft"
    shutil.copytree(checkout.path / "resources/shapes/consistency", model)
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"_class_name": "SoftPipeline"}))
    policy = {"chain": "half-noise", "model": "models/soft", "steps": 4, "guidance_scale": 1.0}
    config = small(
        "extended",
        policies={"consistency": policy},
        scorers={"redness": None, "gold": None},
        rewards=["redness"],
        methods={
            "rocm-renyi": {"beta": 0.02},
            "weighted-consistency": {"temperature": 0.5, "iterations": 1},
        },
    )
    return finish(checkout, config, "all")


def test_a_new_file_of_each_kind_is_all_that_a_finished_run_needs(extended: Checkout) -> None:
    assert extended.jobs(config="config/extended.yaml") == {}
    done = extended.python(
        "-m", "rocm_core.commands.verify", "--configfile", "config/extended.yaml"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_new_reward_divergence_algorithm_and_chain_are_trained_with(extended: Checkout) -> None:
    cells = extended.path / "results/extended/cells/redness"
    regularised = rows(cells / "rocm-renyi/seed-0/history.csv")
    assert (
        len(regularised) == 2 and len(rows(cells / "weighted-consistency/seed-0/history.csv")) == 1
    )
    # Both start from the same base, noise and prompts: the reward of step 1 is that of the base.
    weighted = rows(cells / "weighted-consistency/seed-0/history.csv")
    assert weighted[0]["reward"] == regularised[0]["reward"]
    # The second step has left the reference; D is d², as the module says, summed over 3 draws.
    assert float(regularised[1]["divergence"]) > 0
    for method, key, value in [
        ("rocm-renyi", "divergence", "renyi"),
        ("weighted-consistency", "temperature", 0.5),
    ]:
        manifest = json.loads((cells / method / "seed-0/manifest.json").read_text())
        assert manifest["settings"][key] == value and manifest["settings"]["chain"] == "half-noise"
        assert (cells / method / "seed-0/lora.safetensors").stat().st_size > 0


def test_a_new_denoiser_makes_the_images_and_a_new_reward_scores_them(extended: Checkout) -> None:
    samples = extended.path / "results/extended/samples"
    sources = [
        "base-consistency",
        "redness/rocm-renyi/seed-0",
        "redness/weighted-consistency/seed-0",
    ]
    for source in sources:
        folder = samples / source / "validation/steps-4"
        scores = {
            row["prompt_id"]: float(row["value"])
            for row in rows(folder / "scores.csv")
            if row["metric"] == "redness"
        }
        images = {path.stem: path for path in folder.glob("*.png")}
        assert len(images) == PROMPTS and scores.keys() == images.keys()
        for prompt, path in images.items():
            with Image.open(path) as image:
                pixels = np.asarray(image, dtype=float) / 255
            assert 0.25 - 1 / 255 <= pixels.min() and pixels.max() <= 0.75 + 1 / 255
            redness = pixels[..., 0].mean() - pixels[..., 1:].mean()
            assert scores[prompt] == pytest.approx(redness, abs=1e-4)


def test_a_new_table_and_a_new_figure_are_drawn_and_in_the_report(extended: Checkout) -> None:
    results = extended.path / "results/extended"
    gains = rows(results / "tables/gains.csv")
    assert [row["method"] for row in gains] == ["rocm-renyi", "weighted-consistency"]
    for row in gains:
        means = [
            np.mean([float(r["value"]) for r in rows(path) if r["metric"] == "redness"])
            for source in (f"redness/{row['method']}/seed-0", "base-consistency")
            for path in [results / "samples" / source / "validation/steps-4/scores.csv"]
        ]
        assert float(row["gain"]) == pytest.approx(means[0] - means[1], abs=1e-9)
    assert len(rows(results / "figures/histogram.csv")) == 2 * PROMPTS
    assert (results / "figures/histogram.pdf").read_bytes().startswith(b"%PDF")
    page = (results / "report.html").read_text()
    for title in ("Gain in the training reward", "Distribution of the training reward"):
        assert title in page


CONFIG = "config/ideas.yaml"


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory, executable: str) -> Checkout:
    """A run whose plug-ins lie in packages of the user's own, trained and scored by processes of
    their own, as no other test here has them; what tests ask of it is forked."""
    ideas = tmp_path_factory.mktemp("ideas")
    for kind in ("rewards", "divergences", "algorithms", "chains"):
        file = ideas / f"my_{kind}" / Path(DOCUMENTED[kind]).name
        file.parent.mkdir()
        file.write_text(tiny.documented(DOCUMENTED[kind]))
    reward = ideas / "my_rewards/redness.py"
    code = "images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))"
    own = reward.read_text().replace(code, "colours.red(images)")
    reward.write_text(
        own.replace("import torch\n", "import torch\nfrom my_rewards import colours\n", 1)
    )
    (ideas / "my_rewards/colours.py").write_text(f"def red(images):\n    return {code}\n")
    text = (copy := copy_checkout(tmp_path_factory.mktemp("checkout"))).path / "docs/adding.md"
    section = text.read_text().split("## In a package of your own")[1]
    shown = yaml.safe_load(re.findall("```yaml\n(.*?)```", section, re.DOTALL)[0])
    done = finish(Checkout(copy.path, packages=ideas), small("ideas", **shown), "score")
    return replace(done, executable=executable)


def edited(outside: Checkout, folder: Path, file: str, old: str, new: str) -> dict[str, int]:
    """The jobs that are planned after an edit of one of the user's files."""
    packages = folder / "ideas"
    shutil.copytree(outside.packages, packages)
    Checkout(packages).edit(file, old, new)
    checkout = replace(outside, packages=packages)
    return checkout.jobs(config=CONFIG, targets=["score"])


@pytest.mark.faults  # for its time
def test_plugins_outside_of_the_checkout_are_trained_and_scored(outside: Checkout) -> None:
    assert outside.jobs(config=CONFIG, targets=["score"]) == {}
    results = outside.path / "results/ideas"
    cells = results / "cells/my_rewards.redness"
    methods = {"rocm-my_divergences.renyi", "my_algorithms.weighted-consistency"}
    assert {path.name for path in cells.iterdir()} == methods
    for method in methods:
        manifest = json.loads((cells / method / "seed-0/manifest.json").read_text())
        assert manifest["settings"]["chain"] == "my_chains.half_noise"
        assert len(rows(cells / method / "seed-0/history.csv")) == 2
        scores = (
            results / f"samples/my_rewards.redness/{method}/seed-0/validation/steps-4/scores.csv"
        )
        assert {row["metric"] for row in rows(scores)} == {"my_rewards.redness"}


@pytest.mark.faults  # for its time
def test_an_edit_of_the_users_algorithm_runs_its_cell_again(
    outside: Checkout, tmp_path: Path
) -> None:
    jobs = edited(outside, tmp_path, "my_algorithms/weighted.py", "= 1.0", "= 2.0")
    assert jobs == {"train_cell": 1, "evaluate_images": 1}


@pytest.mark.faults  # for its time
def test_an_edit_of_what_the_users_reward_imports_runs_all_that_uses_it_again(
    outside: Checkout, tmp_path: Path
) -> None:
    jobs = edited(outside, tmp_path, "my_rewards/colours.py", "(1, 2, 3)", "(1, 3, 2)")
    assert jobs["train_cell"] == 2 and "make_prompts" not in jobs
    assert jobs["evaluate_images"] == 3  # the base's are scored again, not made again


@pytest.mark.faults  # for its time
def test_a_comment_in_the_users_file_runs_nothing_again(outside: Checkout, tmp_path: Path) -> None:
    old = '"""How red an image is."""'
    assert (
        edited(outside, tmp_path, "my_rewards/redness.py", old, f"{old}\n# R - (G + B) / 2") == {}
    )


@pytest.mark.faults  # for its time
def test_an_error_in_the_users_file_is_one_sentence(outside: Checkout, tmp_path: Path) -> None:
    packages = tmp_path / "ideas"
    shutil.copytree(outside.packages, packages)
    (packages / "my_rewards/colours.py").write_text("def red(images)\n    return 0\n")
    planned = replace(outside, packages=packages).snakemake("-n", "--configfile", CONFIG)
    assert planned.returncode != 0
    last = planned.stderr.strip().splitlines()[-1]
    assert last.endswith("my_rewards/colours.py:1 is not valid Python: expected ':'"), (
        planned.stderr
    )
