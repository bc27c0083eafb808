"""The scripts behind the rules run alone and say in one sentence what is wrong with their input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

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
