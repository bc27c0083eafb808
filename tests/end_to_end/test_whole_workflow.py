"""The whole workflow: a demo small enough for a test, from prompts to report.

Nothing of it is replaced; its jobs are forked, which saves them the import of others' libraries.
"""

import csv
import html
import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import yaml
from checkout import Checkout, copy_checkout
from PIL import Image

from rocm_core.grid import load_config, make_grid, offered
from rocm_core.provenance import Layout

CONFIG = "config/tiny.yaml"
CELLS = ("aesthetic/rocm-none/seed-0", "aesthetic/rocm-kl/seed-0")
TRIED = [0.02, 2.0]  # values of β, of which a search chooses
PROMPTS, JUDGED, STEPS, ITERATIONS = 8, 4, 4, 4


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, executable: str) -> tuple[Checkout, str]:
    """A fresh copy of the project after `snakemake all` with a small form of config/demo.yaml, and
    what that said on the terminal."""
    checkout = copy_checkout(tmp_path_factory.mktemp("checkout"), executable)
    config = yaml.safe_load((checkout.path / "config/demo.yaml").read_text())
    config |= {"name": "tiny", "rewards": ["aesthetic"], "snapshots": {"prompts": JUDGED}}
    search = {"search": TRIED, "iterations": 2}
    config["methods"] = {"rocm-none": {}, "rocm-kl": {"beta": search}}
    config["base_rewards"] = True
    config["gradients"] = {"methods": ["rocm-none"], "images": 4, "images_per_prompt": 2}
    config["policies"]["consistency"]["steps"] = STEPS
    config["prompts"]["train"]["count"] = 16
    config["prompts"]["validation"]["count"] = PROMPTS
    config["training"] |= {"iterations": ITERATIONS, "batch_size": 2, "snapshot_every": 2}
    (checkout.path / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
    done = checkout.snakemake("all", "--cores", "2", "--show-failed-logs", "--configfile", CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout, done.stderr


@pytest.fixture(scope="module")
def run(finished: tuple[Checkout, str]) -> Checkout:
    return finished[0]


@pytest.fixture
def copy(run: Checkout, tmp_path: Path) -> Checkout:
    """The finished run, to be damaged."""
    return run.copied(tmp_path / "checkout")


def results(checkout: Checkout) -> Path:
    return checkout.path / "results/tiny"


def rows(path: Path) -> Iterator[dict[str, str]]:
    with open(path, newline="") as file:
        yield from csv.DictReader(file)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=int)


def verify(checkout: Checkout) -> subprocess.CompletedProcess[str]:
    return checkout.python("-m", "rocm_core.commands.verify", "--configfile", CONFIG)


def test_every_artefact_is_there_and_as_configured(run: Checkout) -> None:
    done = run.make("verify", f"CONFIG={CONFIG}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "results/tiny: everything is there and as configured\n"


def test_a_second_run_finds_nothing_to_do(run: Checkout) -> None:
    assert run.jobs(config=CONFIG) == {}


def test_touching_every_source_of_a_real_run_runs_nothing(copy: Checkout) -> None:
    for file in copy.sources():
        os.utime(file)
    assert copy.jobs(config=CONFIG) == {}


def test_training_leaves_no_state_behind_and_a_history_of_each_step(run: Checkout) -> None:
    assert not list((results(run) / ".state").rglob("*.safetensors"))
    for cell in CELLS:
        folder = results(run) / "cells" / cell
        assert [row["step"] for row in rows(folder / "history.csv")] == ["1", "2", "3", "4"]
        snapshots = {file.name for file in (folder / "snapshots").glob("*.safetensors")}
        assert snapshots == {"step-2.safetensors", "step-4.safetensors"}
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["attempts"] == 1 and manifest["settings"]["iterations"] == ITERATIONS


def test_each_training_was_seen_on_the_terminal_and_drew_previews(
    finished: tuple[Checkout, str],
) -> None:
    checkout, said = finished
    layout = Layout(results(checkout))
    cells = make_grid(load_config(checkout.path / CONFIG))
    assert len(cells) == len(CELLS) + len(TRIED)
    for cell in cells:
        steps = cell.settings.iterations
        line = f"{cell.name}: step {steps} of {steps}: reward "
        assert said.count(line) == layout.log("train", cell.name).read_text().count(line) == 1
    for name in CELLS:
        assert all(pixels(layout.run(name).preview(step)).std() > 0 for step in (2, 4))


def test_each_source_has_an_image_a_prompt_and_all_scores(run: Checkout) -> None:
    prompts = [json.loads(line) for line in open(results(run) / "prompts/validation.jsonl")]
    config = yaml.safe_load((run.path / CONFIG).read_text())
    for source in ("base-consistency", *CELLS):
        folder = results(run) / "samples" / source / "validation" / f"steps-{STEPS}"
        assert {file.stem for file in folder.glob("*.png")} == {prompt["id"] for prompt in prompts}
        scores = {
            (row["prompt_id"], row["metric"]): float(row["value"])
            for row in rows(folder / "scores.csv")
        }
        wanted = {(prompt["id"], metric) for prompt in prompts for metric in config["scorers"]}
        assert scores.keys() == wanted
        assert all(math.isfinite(value) for value in scores.values())


@pytest.mark.parametrize("cell", CELLS)
def test_snapshots_are_judged_on_the_images_that_generation_makes(run: Checkout, cell: str) -> None:
    """Step 0 is the base and the last step the final LoRA: same prompts, same noise, same images.

    The two jobs use batches of other sizes, which may move a pixel by one level.
    """
    samples = results(run) / "samples"
    judged = samples / cell / "snapshots"
    for step, source in ((0, "base-consistency"), (ITERATIONS, cell)):
        snapshots = sorted((judged / f"step-{step}").glob("*.png"))
        assert len(snapshots) == JUDGED
        for snapshot in snapshots:
            final = samples / source / "validation" / f"steps-{STEPS}" / snapshot.name
            assert abs(pixels(snapshot) - pixels(final)).max() <= 1


def test_table1_holds_the_means_of_the_scores_and_masks_the_trained_metric(run: Checkout) -> None:
    table = {
        (row["method"], row["metric"]): row for row in rows(results(run) / "tables/table1.csv")
    }
    for method in ("base-consistency", "rocm-none", "rocm-kl"):
        source = method if method.startswith("base") else f"aesthetic/{method}/seed-0"
        folder = results(run) / "samples" / source / "validation" / f"steps-{STEPS}"
        scores = list(rows(folder / "scores.csv"))
        for metric in {row["metric"] for row in scores}:
            entry = table[method, metric]
            if metric == "aesthetic" and method != "base-consistency":
                assert entry["status"] == "trained" and not entry["mean"]
                continue
            mean = fmean(float(row["value"]) for row in scores if row["metric"] == metric)
            assert float(entry["mean"]) == pytest.approx(mean, abs=1e-6)
            assert int(float(entry["n"])) == PROMPTS


def test_every_figure_has_its_data_and_the_report_shows_it(run: Checkout) -> None:
    drawn = offered("figures", load_config(run.path / CONFIG))
    report = (results(run) / "report.html").read_text()
    for name in drawn:
        stem = results(run) / "figures" / name
        assert list(rows(stem.with_suffix(".csv")))
        assert stem.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
        assert pixels(stem.with_suffix(".png")).std() > 0
    assert report.count("data:image/png;base64,") == len(drawn)


def test_verify_names_a_changed_image_and_a_missing_score(copy: Checkout) -> None:
    folder = results(copy) / "samples" / CELLS[0] / "validation" / f"steps-{STEPS}"
    image = min(folder.glob("*.png"))
    image.write_bytes(b"")
    lines = (folder / "scores.csv").read_text().splitlines()
    (folder / "scores.csv").write_text("\n".join(lines[:-1]) + "\n")
    done = verify(copy)
    assert done.returncode == 1
    assert image.name in done.stdout and "scores.csv lacks 1 scores" in done.stdout


def test_make_writes_a_card_of_every_finished_lora(copy: Checkout) -> None:
    done = copy.make("card", f"CONFIG={CONFIG}")
    assert done.returncode == 0, done.stderr
    cards = [results(copy) / f"publish/{cell.replace('/', '--')}/README.md" for cell in CELLS]
    assert {*map(str, cards)} <= {str(copy.path / line) for line in done.stdout.splitlines()}
    assert all("| Gold judge |" in card.read_text() for card in cards)


@pytest.mark.faults  # for its time
def test_partial_results_are_drawn_with_their_gaps_marked(copy: Checkout) -> None:
    shutil.rmtree(results(copy) / "cells" / CELLS[1])
    shutil.rmtree(results(copy) / "samples" / CELLS[1])
    done = copy.snakemake(
        *("report", "--cores", "2", "--configfile", CONFIG, "--config", "partial=true")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (results(copy) / "cells" / CELLS[1]).exists()
    table = list(rows(results(copy) / "tables/table1.csv"))
    missing = {row["method"] for row in table if row["status"] == "missing"}
    assert missing == {"rocm-kl"}
    assert f"samples/{CELLS[1]}" in (results(copy) / "report.html").read_text()


@pytest.mark.faults  # for its time
def test_a_finished_training_whose_state_was_kept_goes_on_when_iterations_are_raised(
    copy: Checkout,
) -> None:
    folder = results(copy) / "cells" / CELLS[0]
    lora = str(folder.relative_to(copy.path) / "lora.safetensors")
    config = yaml.safe_load((copy.path / CONFIG).read_text())
    config["resources"]["keep_states"] = True

    def train(iterations: int, *arguments: str) -> list[dict[str, str]]:
        config["training"]["iterations"] = iterations
        (copy.path / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
        done = copy.snakemake(lora, *arguments, "--cores", "1", "--configfile", CONFIG)
        assert done.returncode == 0, done.stdout + done.stderr
        return list(rows(folder / "history.csv"))

    first = train(ITERATIONS, "--forcerun", lora)
    whole = train(ITERATIONS + 2)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["resumed_after"] == [0, ITERATIONS]
    assert len(whole) == ITERATIONS + 2 and whole[:ITERATIONS] == first  # the clock's too


@pytest.mark.faults  # for its time
def test_a_rename_is_accepted_and_the_results_are_kept(copy: Checkout) -> None:
    """What trains, generates and scores draws its noise from the edited module."""
    noise = copy.path / "rocm_core/policies/noise.py"
    source = noise.read_text()
    assert source.count("_generator") == 4
    noise.write_text(source.replace("_generator", "_numbers_of"))
    assert copy.jobs(config=CONFIG)["train_cell"] == len(CELLS) + len(TRIED)
    done = verify(copy)
    assert done.returncode == 1
    cells = [f"results/tiny/cells/{cell}/manifest.json" for cell in CELLS]
    assert all(f"{cell}: made by other code" in done.stdout for cell in cells)
    kept = {file: file.read_bytes() for file in results(copy).rglob("*.safetensors")}
    kept |= {file: file.read_bytes() for file in results(copy).rglob("scores.csv")}
    kept = {file: content for file, content in kept.items() if file.parent.name != ".kept"}
    # Of each cell 3 LoRAs and 2 tables of scores, of each trial one of both, and the base's.
    assert len(kept) == 5 * len(CELLS) + 2 * len(TRIED) + 1

    accepted = copy.python("-m", "rocm_core.commands.accept", "--configfile", CONFIG)
    assert accepted.returncode == 0, accepted.stderr
    made = {"make_prompts", "train_cell", "evaluate_images", "evaluate_snapshots"}
    planned = copy.jobs(config=CONFIG)
    assert planned["report"] == 1 and not planned.keys() & made
    done = copy.snakemake("all", "--cores", "2", "--show-failed-logs", "--configfile", CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert kept == {file: file.read_bytes() for file in kept}
    done = verify(copy)
    assert done.returncode == 0, done.stdout
    page = html.unescape((results(copy) / "report.html").read_text())
    for cell in cells:
        (note,) = json.loads((copy.path / cell).read_text())["accepted"]
        assert f"{cell}: accepted by {note['by']} on {note['at'][:10]}" in done.stdout
        assert f"code accepted by {note['by']} on {note['at']}" in page
        assert note["code"][:12] in page and note["instead_of"][:12] in page

    copy.edit("rocm_core/policies/noise.py", "digest[:16]", "digest[16:]")
    assert copy.jobs(config=CONFIG)["train_cell"] == len(CELLS) + len(TRIED)


@pytest.mark.faults  # for its time
def test_a_scorer_that_fails_or_is_edited_leaves_the_images_as_they_are(copy: Checkout) -> None:
    """One process makes images, scores and read-outs; a part that is done is not done again."""
    folder = results(copy) / "samples/base-consistency/validation" / f"steps-{STEPS}"
    command = (
        f"{folder.relative_to(copy.path)}/scores.csv",
        "--cores",
        "1",
        "--configfile",
        CONFIG,
    )
    images = {file: file.stat().st_mtime_ns for file in folder.glob("*.png")}
    assert len(images) == PROMPTS
    scores, readouts = (folder / f"{name}.csv" for name in ("scores", "readouts"))
    before, measured = scores.read_bytes(), (folder / "readouts.manifest.json").read_bytes()
    scorer, line = "rocm_core/rewards/hpsv2.py", "\nWHY = 1 / 0\n"
    with open(copy.path / scorer, "a") as file:
        file.write(line)
    done = copy.snakemake(*command)
    assert done.returncode == 1 and not scores.exists() and not (folder / "index.jsonl").exists()
    copy.edit(scorer, line, "\nWHY = 1\n")
    done = copy.snakemake(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert images == {file: file.stat().st_mtime_ns for file in folder.glob("*.png")}
    assert scores.read_bytes() == before and readouts.exists()
    assert (folder / "readouts.manifest.json").read_bytes() == measured
    record = json.loads((folder / "scores.manifest.json").read_text())
    assert "samples/base-consistency" not in str(copy.jobs(config=CONFIG, targets=["score"]))
    assert record["code"] != json.loads((folder / "readouts.manifest.json").read_text())["code"]
