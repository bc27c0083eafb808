"""`verify` passes a finished run and names whatever is missing, stale, damaged or not a number."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from finished_run import write_run
from snakemake.persistence import MetadataRecord
from snakemake.persistence.file import FilePersistence

from rocm_core.commands.accept import accept
from rocm_core.commands.verify import require_fresh, verify
from rocm_core.errors import UserError
from rocm_core.evaluation.scores import BATCH_SIZE
from rocm_core.grid import (
    SCORED_TOGETHER,
    Artefacts,
    job_code,
    load_config,
    made_results,
    parse_config,
)
from rocm_core.plugins import ROOT
from rocm_core.prompts import Prompt, write_prompts
from rocm_core.provenance import (
    Accepted,
    hash_inputs,
    record_beside,
    sealed,
    sha256_file,
    write_json,
    write_manifest,
)

CONFIG = {
    "name": "run",
    "policies": {"consistency": {"model": "base", "steps": 4, "guidance_scale": 3.0}},
    "scorers": {"hpsv2": None, "gold": None},
    "prompts": {
        "train": {"source": "shapes", "count": 4},
        "validation": {"source": "shapes", "count": 3},
    },
    "rewards": ["hpsv2"],
    "methods": {"rocm-none": {}, "rocm-kl": {"beta": 0.05}},
    "training": {"iterations": 4, "snapshot_every": 2},
    "snapshots": {"prompts": 2},
}
PROMPTS = {
    "train": [Prompt(str(i), f"t {i}", "t") for i in range(4)],
    "validation": [Prompt(f"{i:05d}", f"caption {i}", "shapes") for i in range(3)],
}
CELL = "cells/hpsv2/rocm-kl/seed-0"
SAMPLES = "samples/hpsv2/rocm-kl/seed-0/validation/steps-4"
SNAPSHOTS = "samples/hpsv2/rocm-kl/seed-0/snapshots"
OF_THE_CHAIN = ("inputs", "digest")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished") / "run"
    (root / "base").mkdir(parents=True)
    (root / "base" / "w.bin").write_text("weights")
    write_run(parse_config(CONFIG), root, PROMPTS)
    return root


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def problems(root, **changes):
    found, _ = verify(parse_config(CONFIG | changes), root)
    assert all(line.splitlines() == [line] for line in found)
    return found


def of_jobs(found):
    """Problems of what jobs made, not of what was rendered from that."""
    return [line for line in found if not re.search(r"/(tables|figures)/|/(claims|report)\.", line)]


def test_a_finished_run_passes(run):
    assert problems(run) == []


@pytest.mark.parametrize(
    "name",
    [
        f"{CELL}/lora.safetensors",
        f"{CELL}/snapshots/step-2.safetensors",
        f"{CELL}/history.csv",
        f"{CELL}/manifest.json",
        f"{SAMPLES}/00001.png",
        f"{SAMPLES}/scores.csv",
        f"{SAMPLES}/readouts.csv",
        f"{SAMPLES}/manifest.json",
        f"{SAMPLES}/scores.manifest.json",
        f"{SAMPLES}/readouts.manifest.json",
        f"{SNAPSHOTS}/step-4/00000.png",
        f"{SNAPSHOTS}/scores.csv",
        "prompts/train.jsonl",
        "prompts/validation.jsonl",
        "prompts/validation.manifest.json",
        "tables/table1.tex",
        "tables/table1.manifest.json",
        "figures/figure2.pdf",
        "figures/figure2.manifest.json",
        "claims.md",
        "claims.manifest.json",
        "report.html",
        "report.manifest.json",
        "samples/base-consistency/validation/steps-4/index.jsonl",
    ],
)
def test_a_missing_file_is_reported(run, name):
    (run / name).unlink()
    found = problems(run)
    assert found and all(str(run / name) in line for line in found)


@pytest.mark.parametrize(
    "name",
    [
        f"{CELL}/lora.safetensors",
        f"{SAMPLES}/00002.png",
        "tables/table1.csv",
        "figures/figure2.png",
        "claims.json",
        "report.html",
    ],
)
def test_a_damaged_file_is_reported(run, name):
    (run / name).write_text("damaged")
    assert problems(run) == [
        f"{run / name} is not the file that its manifest lists: its sha256 differs"
    ]


def test_a_score_that_was_edited_is_reported(run):
    path = run / SAMPLES / "scores.csv"
    rewrite(path, "00001,gold,0.5", "00001,gold,0.6")
    assert problems(run) == [f"{path} is not the file that its manifest lists: its sha256 differs"]


def test_scores_by_other_scorers_are_stale(run):
    scorers = {**CONFIG["scorers"], "hpsv2": "elsewhere"}
    assert {line.partition(": made")[0] for line in problems(run, scorers=scorers)} >= {
        *map(str, run.rglob("scores.manifest.json")),
        *map(str, run.rglob("snapshots/manifest.json")),
    }


def test_prompts_that_were_edited_are_reported(run):
    path = run / "prompts/validation.jsonl"
    rewrite(path, "caption 1", "caption I")
    assert problems(run) == [f"{path} is not the file that its manifest lists: its sha256 differs"]


def test_what_was_made_from_another_file_is_reported(run):
    """A table that was not made again after its scores were, and these are right themselves."""
    scores, record = run / SAMPLES / "scores.csv", run / "tables/table1.manifest.json"
    rewrite(scores, "00001,gold,0.5", "00001,gold,0.6")
    its = scores.with_name("scores.manifest.json")
    restate(its, outputs={"scores.csv": sha256_file(scores)})
    assert f"{record}: made from another {scores}" in problems(run)
    assert all(line.endswith(f": made from another {scores}") for line in problems(run))


def test_results_of_an_older_version_are_named_in_one_sentence_each(run):
    for path in (run / CELL / "manifest.json", run / SAMPLES / "scores.manifest.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({k: content[k] for k in content if k not in OF_THE_CHAIN}))
    assert problems(run) == [
        f"{run / name} is of an older version, which did not record what its files were made from"
        for name in (f"{CELL}/manifest.json", f"{SAMPLES}/scores.manifest.json")
    ]


def test_what_a_search_chose_is_bound_and_accepted_like_all_others(tmp_path):
    methods = {"rocm-kl": {"beta": {"search": [0.5, 5.0], "iterations": 2}}}
    config = parse_config(CONFIG | {"methods": methods})
    write_run(config, tmp_path / "run")
    assert verify(config, tmp_path / "run") == ([], [])
    choice = tmp_path / "run/search/hpsv2/rocm-kl.json"
    text = choice.read_text()
    rewrite(choice, "0.5", "5.0")
    assert verify(config, tmp_path / "run")[0] == [
        f"{choice} is not the file that its manifest lists: its sha256 differs"
    ]
    restate(record_beside(choice), outputs={choice.name: sha256_file(choice)})
    cell = tmp_path / "run/cells/hpsv2/rocm-kl/seed-0/manifest.json"
    assert verify(config, tmp_path / "run")[0] == [f"{cell}: made from another {choice}"]
    choice.write_text(text)
    restate(record_beside(choice), outputs={choice.name: sha256_file(choice)}, code="0" * 64)
    said = []
    assert accept(config, tmp_path / "run", ["hpsv2/*"], say=said.append) == [record_beside(choice)]
    found, accepted = verify(config, tmp_path / "run")
    assert found == [] and len(accepted) == len(said) == 1


def test_an_acceptance_that_was_interrupted_is_completed_by_another(tmp_path):
    config, run = parse_config(CONFIG), tmp_path / "run"
    layout = Artefacts(config, run).layout
    write_run(config, run)
    paths = [run / f"cells/hpsv2/{method}/seed-0/manifest.json" for method in config.methods]
    codes = [json.loads(path.read_text())["code"] for path in paths]
    for path in paths:
        restate(path, code="0" * 64)
    assert accept(config, run) == paths
    kept = json.loads(layout.accepted.read_text())
    for lost in (kept.keys(), list(kept)[:1]):  # after the manifests say so, or but the first
        write_json(layout.accepted, {key: kept[key] for key in kept if key not in lost})
        assert {*accept(config, run)} == {run / key for key in lost}
        assert json.loads(layout.accepted.read_text()) == kept
    assert accept(config, run) == []
    assert all(len(json.loads(path.read_text())["accepted"]) == 1 for path in paths)
    shown = [Accepted(layout).code(path, code) for path, code in zip(paths, codes, strict=True)]
    assert shown == ["0" * 64] * 2


def test_two_who_accept_at_once_keep_what_the_other_accepted(run):
    layout = Artefacts(parse_config(CONFIG), run).layout
    paths = [run / f"cells/hpsv2/{method}/seed-0/manifest.json" for method in CONFIG["methods"]]
    for path, record in [*zip(paths, [Accepted(layout), Accepted(layout)], strict=True)]:
        record.accept(path, json.loads(path.read_text()), "c0de")
    assert all(Accepted(layout).holds(path, "c0de") for path in paths)


def test_results_without_snakemakes_record_of_them_are_told_from_others(run, tmp_path, capsys):
    config, folder = parse_config(CONFIG), tmp_path / ".snakemake"
    outputs = [str(one.outputs[0]) for one in made_results(Artefacts(config, run), PROMPTS)]
    run = run.rename(f"{run}{'x' * (191 - min(map(len, outputs)))}")
    files = Artefacts(config, run)
    others = FilePersistence(path=folder, nolock=True)
    others._write_record("results/demo/report.html", MetadataRecord())  # of another run
    require_fresh(files, folder)
    assert "--touch all` takes it in" in capsys.readouterr().err
    every = [str(one.outputs[0]) for one in made_results(files, PROMPTS)]
    assert {len(name) > 191 for name in every} == {True, False}  # for a file's name, in base64
    for name in every:
        others._write_record(name, MetadataRecord())
    for path in (run / CELL / "manifest.json", run / SAMPLES / "scores.manifest.json"):
        restate(path, code="0" * 64)  # which Snakemake sees by itself
    require_fresh(files, folder)
    assert capsys.readouterr().err == ""
    others._delete_record(str(run / CELL / "lora.safetensors"))
    with pytest.raises(UserError, match=f"and {run / CELL / 'manifest.json'} were made by other"):
        require_fresh(files, folder)
    others._mark_incomplete(str(run / CELL / "lora.safetensors"), None)  # of a job that runs
    require_fresh(files, folder)


def test_whoever_accepts_a_cell_accepts_the_standards_that_it_is_made_from(tmp_path):
    """Else Snakemake would make these again, and then the cell from them."""
    config = parse_config(
        CONFIG
        | {"scorers": {"hpsv2": None, "aesthetic": None, "gold": None}, "rewards": ["hpsv2"]}
        | {"methods": {"rocm-none": {}, "rocm-kl": {"beta": 0.05, "gate_by": "aesthetic"}}}
    )
    root = tmp_path / "run"
    write_run(config, root)
    standards = record_beside(next(iter(Artefacts(config, root).measured_bases())))
    cells = {
        method: root / f"cells/hpsv2/{method}/seed-0/manifest.json" for method in config.methods
    }
    for record in (standards, *cells.values()):
        restate(record, code="0" * 64)
    assert accept(config, root, ["hpsv2/rocm-none/*"], say=len) == [cells["rocm-none"]]
    assert set(accept(config, root, ["hpsv2/rocm-kl/*"], say=len)) == {standards, cells["rocm-kl"]}


def restate(path, **changes):
    """Have a manifest say something else, as if it had been written so."""
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | changes)))


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("00001,gold,0.5", "00001,gold,nan", "1 values that are not finite numbers"),
        ("00001,gold,0.5", "00001,gold,", "1 values that are not finite numbers, the first is ''"),
        ("00001,gold,0.5", "00001,gold,inf", "1 values that are not finite numbers"),
        ("00001,gold,0.5\n", "", "lacks 1 scores, such as 00001 gold"),
        ("00001,gold,0.5", "00000,gold,0.5", "scores 1 images twice"),
        ("prompt_id", "id", "lacks one of the columns prompt_id, metric, value"),
    ],
)
def test_scores_must_be_complete_and_finite(run, old, new, said):
    rewrite(run / SAMPLES / "scores.csv", old, new)
    edited, found, *_ = problems(run)
    assert "its sha256 differs" in edited and said in found


def test_a_history_must_be_complete_and_finite(run):
    rewrite(run / CELL / "history.csv", "3,0.1,0.2,12,48\n", "")
    assert f"{run / CELL / 'history.csv'} has 3 steps, not 4" in problems(run)
    rewrite(run / CELL / "history.csv", "4,0.1", "4,nan")
    assert any("not finite" in line for line in problems(run))


def test_results_of_a_setting_that_was_removed_are_stale(tmp_path):
    """An optional setting is not among the others where it is at its default."""
    root, given = tmp_path / "run", {"methods": {"rocm-kl": {"beta": 0.05, "truncate": 2}}}
    given |= {"generation": {"lora_scale": 0.5}, "base_rewards": True}
    write_run(parse_config(CONFIG | given), root, PROMPTS)
    found = problems(root, methods={"rocm-kl": {"beta": 0.05}}, base_rewards=True)
    assert {"truncate 2", "lora_scale 0.5"} == {
        said for line in found for said in re.findall(r"made with (\w+ \S+), .* says None$", line)
    }
    assert any(
        line.endswith("differs in base_rewards")
        for line in problems(root, **given | {"base_rewards": False})
    )


def test_results_of_other_settings_are_stale(run):
    methods = {"rocm-none": {}, "rocm-kl": {"beta": 0.1}}
    found = problems(run, methods=methods)
    assert of_jobs(found) == [
        f"{run / CELL / 'manifest.json'}: made with beta 0.05, the configuration says 0.1"
    ]
    assert found[-1].startswith(f"{run / 'report.manifest.json'}: made from a configuration that")
    assert found[-1].endswith("differs in methods")
    training = CONFIG["training"] | {"ema_decay": 0.5}
    assert problems(run, training=training)[-1].endswith("differs in training")
    found = of_jobs(problems(run, generation={"seed": 9}))
    assert len(found) == 3 + 2 and all("made with seed 1000" in line for line in found)
    said = "made with processes 1, resources.gpus asks for 2"
    found = of_jobs(problems(run, resources={"gpus": 2}))
    assert [line.partition(": ")[2] for line in found] == [said] * 2


def test_results_of_other_code_or_weights_are_stale(run):
    path = run / CELL / "manifest.json"
    manifest = json.loads(path.read_text())
    restate(path, code="0" * 64)
    assert [line.partition("(")[0] for line in of_jobs(problems(run))] == [
        f"{path}: made by other code "
    ]
    base = str(run / "base")
    restate(path, code=manifest["code"], weights={base: "0" * 64})
    assert of_jobs(problems(run)) == [f"{path}: made with other weights in {base}"]


def test_the_command_lists_the_problems_and_exits_1(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(CONFIG))
    command = [sys.executable, "-m", "rocm_core.commands.verify", "--configfile", "run.json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def ended():
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    before = ended()
    assert before.returncode == 1 and "results/run/cells/hpsv2/rocm-kl/seed-0" in before.stdout
    write_run(parse_config(CONFIG), tmp_path / "results" / "run")
    after = ended()
    assert after.returncode == 0, after.stdout + after.stderr
    assert after.stdout == "results/run: everything is there and as configured\n"


def test_a_cell_that_was_never_trained_is_reported(run):
    found = problems(run, methods=CONFIG["methods"] | {"rocm-js": {"beta": 1}})
    assert of_jobs(found) and all("rocm-js" in line for line in of_jobs(found))
    assert any(line.startswith(f"{run / 'tables/table1.manifest.json'}: ") for line in found)


def test_prompts_of_another_count_or_in_both_sets_are_reported(run):
    write_prompts(run / "prompts/train.jsonl", [Prompt("a", "Caption  1", "t")])
    found = problems(run)
    assert f"{run / 'prompts/train.jsonl'} holds 1 prompts, not 4" in found
    said = f"{run / 'prompts/validation.jsonl'} shares 1 prompts with train, such as 'caption 1'"
    assert said in found
    overlap = CONFIG["prompts"]["validation"] | {"overlap": "allow"}
    assert said not in problems(run, prompts=CONFIG["prompts"] | {"validation": overlap})


def test_further_prompt_sets_and_numbers_of_steps_are_checked(run):
    further = CONFIG["prompts"] | {"more": {"source": "shapes", "count": 3, "seed": 5}}
    path = run / "prompts/more.jsonl"
    assert str(path) in problems(run, prompts=further)[0]
    write_prompts(path, [Prompt(str(i), f"more {i}", "t") for i in range(3)])
    write_manifest(
        run / "prompts/more.manifest.json",
        settings=parse_config(CONFIG | {"prompts": further}).prompts["more"].to_dict(),
        code=job_code("make_prompts"),
        inputs=hash_inputs([run / "prompts/train.jsonl"]),
        outputs=[path],
    )
    files = [
        "manifest.json",
        *(f"{n}.{kind}" for n in ("scores", "readouts") for kind in ("csv", "manifest.json")),
    ]
    steps = {"inference_steps": [None, 2]}
    found = of_jobs(problems(run, prompts=further, generation=steps))
    for source in ("hpsv2/rocm-kl/seed-0", "base-consistency"):
        for part in ("more/steps-4", "validation/steps-2"):
            folder = run / "samples" / source / part
            for file in files:
                assert any(line.startswith(f"{folder / file} is missing") for line in found)
    assert len(found) == 2 * 3 * len(files)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": 1}', "\x00"])
def test_a_broken_manifest_is_reported(run, text):
    (run / CELL / "manifest.json").write_text(text)
    assert len([line for line in problems(run) if "is not a manifest" in line]) == 1


def test_a_published_run_is_what_it_was_made_as_and_a_changed_number_tells(tmp_path):
    shards = shutil.copytree(ROOT / "docs/results/jpeg", tmp_path / "jpeg")
    config = load_config(ROOT / "config/jpeg.yaml").model_copy(update={"shards": str(shards)})
    assert verify(config, tmp_path / "results")[0] == []
    scores = next(shards.glob("samples/*/rocm-kl/seed-0/validation/*/scores.csv"))
    before, _, last = scores.read_text().rpartition(",")
    scores.write_text(f"{before},{float(last) + 1}\n")
    problems, _ = verify(config, tmp_path / "results")
    assert problems[0] == f"{scores} is not the file that its manifest lists: its sha256 differs"


def test_scores_name_how_many_images_were_scored_together():
    assert SCORED_TOGETHER == BATCH_SIZE
