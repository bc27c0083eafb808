"""A broken configuration ends in one sentence that names the key or line, before any job starts."""

from pathlib import Path

import pytest
from checkout import Checkout

# (what stands in config/demo.yaml, what a user made of it, what the sentence must say)
BROKEN = {
    "a number that YAML reads as text": (
        "learning_rate: 1.0e-3",
        "learning_rate: 1e-3",
        ["training.learning_rate", "'1e-3'", "1.0e-3"],
    ),
    "a misspelt key": ("batch_size: 4", "batchsize: 4", ["training", "batchsize", "batch_size"]),
    "a misspelt section": ("monitor:", "moniter:", ["moniter", "monitor"]),
    "an unknown reward": (
        "rewards: [hpsv2, aesthetic]",
        "rewards: [hpsv3, aesthetic]",
        ["rewards", "hpsv3", "hpsv2"],
    ),
    "an unknown divergence": ("  rocm-js:", "  rocm-jss:", ["methods.rocm-jss", "rocm-js"]),
    "a missing beta": ("  rocm-kl: {beta: 0.05}", "  rocm-kl: {}", ["methods.rocm-kl", "beta"]),
    "a negative count": ("count: 200", "count: -1", ["prompts.validation.count", "-1"]),
    "a key given twice": ("name: demo", "name: demo\nname: other", ["name", "twice", "line"]),
    "text for a number": ("iterations: 100", "iterations: many", ["iterations", "'many'"]),
    "an empty list": ("rewards: [hpsv2, aesthetic]", "rewards: []", ["rewards"]),
    "an unknown cell": (
        "  hpsv2/rocm-kl:",
        "  hpsv2/rocm-kll:",
        ["cells.hpsv2/rocm-kll", "rocm-kl"],
    ),
    "a missing section": ("name: demo\n", "", ["name"]),
    "a list for a mapping": (
        "generation: {seed: 1000, batch_size: 50}",
        "generation: [1000, 50]",
        ["generation"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_one_sentence_and_no_job(pristine: Checkout, tmp_path: Path, case: str) -> None:
    old, new, words = BROKEN[case]
    good = (pristine.path / "config/demo.yaml").read_text()
    assert good.count(old) == 1
    broken = tmp_path / "broken.yaml"
    broken.write_text(good.replace(old, new))
    done = pristine.snakemake("--cores", "1", "all", "--configfile", str(broken))
    assert done.returncode != 0
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if not line.startswith("Using workflow")]
    assert len(said) == 1 and said[0].startswith("error: ")
    for word in ["broken.yaml", *words]:
        assert word in said[0]
    assert not (pristine.path / "results/demo").exists()


def test_a_broken_line_in_a_prompt_list_is_named(pristine: Checkout, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"id": "1", "text": "a red circle"}\n{"id": "2", "text": \n')
    good = (pristine.path / "config/demo.yaml").read_text()
    config = tmp_path / "config.yaml"
    old = "train: {source: shapes, count: 2048, seed: 1}"
    assert old in good
    config.write_text(good.replace(old, f"train: {{source: {prompts}}}"))
    done = pristine.snakemake("--cores", "1", "prompts", "--configfile", str(config))
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert f"{prompts}:2" in done.stderr


def test_broken_yaml_is_refused(pristine: Checkout, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: demo\n  world: [shapes\n")
    done = pristine.snakemake("--cores", "1", "all", "--configfile", str(broken))
    assert done.returncode != 0
    assert "not valid JSON or YAML" in done.stderr and "Traceback" not in done.stderr
