"""`verify` names what an edit makes stale; `accept` keeps what an edit cannot have changed.

The grid is that of test_reruns.py: 6 cells, 1 base, 2 prompt sets.
"""

import json
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
from checkout import Checkout

CONFIG = ("--configfile", "config/matrix.yaml")
LORA = "hpsv2/rocm-kl/seed-0"
IMAGES = {"images": 7, "scores": 7, "readouts": 7, "snapshots": 6}
# These read manifests, in which it is said what was accepted.
SHOWN = {"figure5": 1, "report": 1}


def kind_of(manifest: str) -> str:
    """Which artefact a manifest below results/matrix/ is of."""
    folder, *_ = manifest.split("/")
    if folder == "samples":
        if "/snapshots/" in manifest:
            return "snapshots"
        name = Path(manifest).name.removesuffix("manifest.json").rstrip(".")
        return name or "images"
    return folder if folder in ("prompts", "cells") else manifest.removesuffix(".manifest.json")


def verified(checkout: Checkout) -> tuple[dict[str, int], str]:
    """How many artefacts of each kind `verify` calls stale, and all that it prints."""
    done = checkout.python("-m", "rocm_core.commands.verify", *CONFIG)
    assert not done.stderr
    stale = re.findall(r"^results/matrix/(\S+): made by other code", done.stdout, re.M)
    missing = re.findall(r"^results/matrix/(\S+) is missing", done.stdout, re.M)
    assert done.returncode == bool(stale or missing)
    return dict(Counter(map(kind_of, [*stale, *missing]))), done.stdout


def accept(checkout: Checkout, *arguments: str) -> str:
    accepting = [f"ACCEPT={shlex.join(arguments)}"] if arguments else []
    done = checkout.make("accept", f"CONFIG={CONFIG[1]}", *accepting)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rename(checkout: Checkout) -> None:
    """Give a constant of the training another name: other code, the same numbers."""
    path = checkout.path / "rocm_core/training/job.py"
    source = path.read_text()
    assert source.count("SAVE_SECONDS") == 2
    path.write_text(source.replace("SAVE_SECONDS", "SECONDS_UNTIL_SAVED"))


def test_a_finished_tree_is_verified(complete: Checkout) -> None:
    assert verified(complete) == ({}, "results/matrix: everything is there and as configured\n")


def test_verify_names_what_another_cleaning_of_prompts_makes_stale(finished: Checkout) -> None:
    finished.edit_function("clean", '"NFC"', '"NFKC"')
    stale, _ = verified(finished)
    assert stale["images"] == 7 and stale["snapshots"] == 6
    assert stale["prompts"] == 2 and stale["cells"] == 6 and stale["tables/table1"] == 1


def test_verify_names_what_another_version_of_a_scorer_makes_stale(finished: Checkout) -> None:
    finished.edit(
        "rocm_core/grid/held_out.py", "VERSIONS = {", 'VERSIONS = {"blipscore": "hpsv2", '
    )
    stale, _ = verified(finished)
    drawn = {"tables/table1", "tables/readouts", "figures/figure6", "claims", "report"}
    assert stale == dict.fromkeys(drawn, 1)


def test_verify_names_what_another_choice_of_snapshots_makes_stale(finished: Checkout) -> None:
    finished.edit_function("snapshot_steps", ", last}", "}")
    stale, _ = verified(finished)
    assert stale["cells"] == 6 and stale["figures/figure6"] == stale["claims"] == 1


def test_a_rename_is_accepted_and_nothing_is_trained(finished: Checkout) -> None:
    rename(finished)
    assert finished.jobs()["train_cell"] == 6 and verified(finished)[0] == {"cells": 6}
    listed = accept(finished, "--dry-run")
    assert listed.endswith("6 artefacts would be accepted; `make verify` names them\n")
    said = accept(finished)
    assert said.endswith("results/matrix: 6 artefacts accepted; `make verify` names them\n")
    assert finished.jobs() == SHOWN
    stale, said = verified(finished)
    assert stale == {} and said.count(": accepted by ") == 6
    path = finished.path / f"results/matrix/cells/{LORA}/manifest.json"
    (note,) = json.loads(path.read_text())["accepted"]
    assert note.keys() == {"code", "instead_of", "by", "commit", "at"}
    assert note["code"] != note["instead_of"] == json.loads(path.read_text())["code"]
    assert accept(finished).startswith("results/matrix: 0 artefacts accepted")
    # Whoever edits the code again has another code, which nobody has accepted.
    finished.add_statement("rocm_core/training/job.py")
    assert finished.jobs()["train_cell"] == 6 and verified(finished)[0] == {"cells": 6}
    accept(finished)
    assert finished.jobs() == SHOWN
    assert len(json.loads(path.read_text())["accepted"]) == 2


@pytest.mark.faults  # for its time
def test_accepting_can_be_limited_to_cells_and_listed_first(finished: Checkout) -> None:
    rename(finished)
    before = {path: path.read_bytes() for path in finished.path.glob("results/**/*.json")}
    said = accept(finished, "--dry-run")
    assert said.count(" → ") == 6 and "6 artefacts would be accepted" in said
    assert before == {path: path.read_bytes() for path in finished.path.glob("results/**/*.json")}
    assert "3 artefacts accepted" in accept(finished, "--cells", "hpsv2/*")
    jobs = finished.jobs()
    assert jobs["train_cell"] == jobs["evaluate_images"] == 3
    assert verified(finished)[0] == {"cells": 3}


@pytest.mark.faults  # for its time
def test_what_was_accepted_can_be_taken_back(finished: Checkout) -> None:
    path = finished.path / "rocm_core/training/job.py"
    before = path.read_text()
    rename(finished)
    after = path.read_text()
    accept(finished)
    path.write_text(before)
    assert "train_cell" not in finished.jobs() and "accepted by" not in verified(finished)[1]
    path.write_text(after)
    assert "train_cell" not in finished.jobs()
    (finished.path / "results/matrix/accepted.json").unlink()
    assert finished.jobs()["train_cell"] == 6


def test_images_and_scores_are_accepted_too(finished: Checkout) -> None:
    for file in ("generate", "score", "measure", "evaluate_snapshots"):
        finished.add_statement(f"workflow/scripts/{file}.py")
    assert verified(finished)[0] == IMAGES
    assert "27 artefacts accepted" in accept(finished)
    assert finished.jobs() == {} and verified(finished)[0] == {}


def test_a_job_that_runs_under_accepted_code_is_one_of_that_code(finished: Checkout) -> None:
    """Its manifest names the code that ran, while Snakemake has the older one on record."""
    rename(finished)
    accept(finished)
    command = finished.snakemake(
        *("-n", "-p", "train", "-R", f"results/matrix/cells/{LORA}/lora.safetensors"), *CONFIG
    )
    accepted = json.loads((finished.path / "results/matrix/accepted.json").read_text())
    entry = accepted[f"cells/{LORA}/manifest.json"]
    assert f"--fingerprint {entry['code']}" in command.stdout
    assert entry["recorded"] not in command.stdout


def test_settings_and_weights_and_damage_are_never_accepted(finished: Checkout) -> None:
    rename(finished)
    finished.edit(
        "config/matrix.yaml", "aesthetic/rocm-js: {beta: 0.25}", "aesthetic/rocm-js: {beta: 0.3}"
    )
    (finished.path / f"results/matrix/cells/{LORA}/lora.safetensors").write_text("damaged")
    said = accept(finished)
    assert said.count("not accepted: ") == 2 and "4 artefacts accepted" in said
    assert finished.jobs()["train_cell"] == 2
    (finished.path / "weights/hpsv2/model.safetensors").write_text("others")
    finished.add_statement("rocm_core/training/job.py")
    said = accept(finished)
    assert said.count("made with other weights in weights/hpsv2") == 3


@pytest.mark.faults  # for its time
def test_results_of_an_older_version_are_accepted_and_then_bound(finished: Checkout) -> None:
    """Their manifests do not name what they were made from: who accepts them vouches for that."""
    results = finished.path / "results/matrix"
    for path in [*results.glob("cells/**/manifest.json"), *results.glob("samples/**/*.json")]:
        content = json.loads(path.read_text()) | {"code": "0" * 64}
        path.write_text(
            json.dumps({k: content[k] for k in content if k not in ("inputs", "digest")})
        )
    image = results / f"samples/{LORA}/validation/steps-4/00001.png"
    kept, text = image.read_bytes(), "not accepted: "
    image.write_text("damaged")
    assert accept(finished, "--dry-run").count(text) == 3
    image.write_bytes(kept)
    assert text not in accept(finished)
    said = finished.python("-m", "rocm_core.commands.verify", *CONFIG).stdout.splitlines()
    assert len([line for line in said if ": accepted by " in line]) == 27 + 6
    drawn = [line for line in said if ": accepted by " not in line]
    assert drawn and all("made from another results/matrix/cells/" in line for line in drawn)
    image.write_text("damaged")
    done = finished.python("-m", "rocm_core.commands.verify", *CONFIG)
    assert f"{image.name} is not the file" in done.stdout


@pytest.mark.faults  # for its time
def test_prompts_are_made_again_before_their_code_is_accepted(finished: Checkout) -> None:
    finished.edit_function("clean", '"NFC"', '"NFKC"')  # the prompts are plain letters
    accept(finished)
    assert not finished.jobs().keys() & {"make_prompts", "train_cell", "evaluate_images"}
    finished.edit_function("clean", "return cleaned", "return cleaned.upper()")
    done = finished.python("-m", "rocm_core.commands.accept", *CONFIG)
    assert done.returncode == 2
    assert done.stderr.startswith("error: results/matrix/prompts/train.jsonl is not what the")


def test_trainings_are_accepted_before_all_prompts_are_made(finished: Checkout) -> None:
    for path in (finished.path / "results/matrix/prompts").glob("validation.*"):
        path.unlink()
    rename(finished)
    said = accept(finished)
    assert said.endswith("results/matrix: 6 artefacts accepted; `make verify` names them\n")
    assert "train_cell" not in finished.jobs()


def test_a_broken_record_of_what_was_accepted_is_named(finished: Checkout) -> None:
    for text in ("", "{", "[1]"):
        (finished.path / "results/matrix/accepted.json").write_text(text)
        done = finished.snakemake("-n", *CONFIG)
        assert done.returncode != 0
        last = done.stderr.strip().splitlines()[-1]
        assert "results/matrix/accepted.json cannot be read" in last
