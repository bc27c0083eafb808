"""The scripts behind the rules run alone and say in one sentence what is wrong with their input."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from synthetic import make_config, write_results

from rocm_core.commands.render import render
from rocm_core.errors import UserError
from rocm_core.provenance import record_beside, write_manifest

CASES = {
    "make_prompts": ["--settings", '{"source": "shapes", "sead": 1}', "--output", "out.jsonl"],
    "train": ["--settings", "{}", "--prompts", "p", "--output", "o", "--state", "s"]
    + ["--fingerprint", "f"],
    "render": ["figure", "samples", "--config", '{"name": "demo"}', "--output", "out"],
}


def run_script(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / f"workflow/scripts/{name}.py"), *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", CASES)
def test_bad_settings_end_in_one_sentence(name: str, tmp_path: Path) -> None:
    done = run_script(name, *CASES[name], cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_a_broken_line_in_a_prompt_list_is_named(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"id": "1", "text": "a red circle"}\n{"id": "2", "text": \n')
    settings = json.dumps({"source": str(prompts)})
    done = run_script("make_prompts", "--settings", settings, "--output", "made", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and f"{prompts}:2" in done.stderr


def test_prompts_are_made_without_snakemake(tmp_path: Path) -> None:
    def make(name: str, seed: int, *arguments: str) -> list[str]:
        settings = json.dumps({"source": "shapes", "count": 20, "seed": seed})
        output = ["--settings", settings, "--output", name]
        done = run_script("make_prompts", *output, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return [json.loads(line)["text"] for line in (tmp_path / name).read_text().splitlines()]

    train = make("train.jsonl", 1)
    again = make("again.jsonl", 1, "--exclude", "train.jsonl")
    assert len(set(train)) == len(set(again)) == 20
    assert not set(train) & set(again)


def test_a_prompt_set_has_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a red circle\n")
    settings = json.dumps({"source": "list.txt"})
    arguments = ["--settings", settings, "--output", "train.jsonl", "--fingerprint", "c0de"]
    done = run_script("make_prompts", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "train.manifest.json").read_text())
    made = hashlib.sha256((tmp_path / "train.jsonl").read_bytes()).hexdigest()
    assert manifest["outputs"] == {"train.jsonl": made} and manifest["code"] == "c0de"
    assert manifest["settings"]["source"] == "list.txt" and manifest["weights"].keys() == {
        "list.txt"
    }


def test_a_table_has_a_manifest_with_what_it_was_made_from(tmp_path: Path) -> None:
    config = make_config()
    write_results(tmp_path, config)
    render("table", "table1", config, tmp_path, tmp_path / "tables/table1", "c0de")
    manifest = json.loads((tmp_path / "tables/table1.manifest.json").read_text())
    assert manifest["outputs"].keys() == {"table1.md", "table1.tex", "table1.csv"}
    scores = sorted(tmp_path.glob("samples/**/validation/*/scores.csv"))
    assert manifest["inputs"] == {
        f"../{path.relative_to(tmp_path)}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in scores
    }
    assert "methods" in manifest["settings"] and "resources" not in manifest["settings"]


def test_nothing_is_drawn_from_scores_that_are_not_their_manifests(tmp_path: Path) -> None:
    config = make_config()
    write_results(tmp_path, config)
    scores = tmp_path / "samples/hpsv2/rocm-kl/seed-0/validation/steps-4/scores.csv"
    write_manifest(record_beside(scores), settings={}, code="", outputs=[scores])
    render("table", "table1", config, tmp_path, tmp_path / "tables/table1")
    before = (tmp_path / "tables/table1.csv").read_bytes()
    scores.write_text(scores.read_text().replace(",0.", ",9.", 1))
    with pytest.raises(UserError, match="scores.csv is not the file that its scores.manifest.json"):
        render("table", "table1", config, tmp_path, tmp_path / "tables/table1")
    assert (tmp_path / "tables/table1.csv").read_bytes() == before
