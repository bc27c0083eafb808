"""A broken configuration ends in one sentence that names the key or line, before any job starts."""

import os
from pathlib import Path

import pytest
from checkout import ROOT, Checkout

from rocm_core.errors import UserError
from rocm_core.grid import load_config

# (what stands in config/demo.yaml, what a user made of it, what the sentence must say)
BROKEN = {
    "a number that YAML reads as text": (
        "learning_rate: 5.0e-4",
        "learning_rate: 5e-4",
        ["training.learning_rate", "'5e-4'", "5.0e-4"],
    ),
    "a misspelt key": ("batch_size: 8", "batchsize: 8", ["training", "batchsize", "batch_size"]),
    "a misspelt section": ("snapshots:", "snapshosts:", ["snapshosts", "snapshots"]),
    "an unknown reward": (
        "rewards: [hpsv2]",
        "rewards: [hpsv3]",
        ["rewards", "hpsv3", "hpsv2"],
    ),
    "an unknown divergence": ("  rocm-js:", "  rocm-jss:", ["methods.rocm-jss", "rocm-js"]),
    "a missing beta": ("  rocm-kl: {beta: 0.0015}", "  rocm-kl: {}", ["methods.rocm-kl", "beta"]),
    "a negative count": ("count: 200", "count: -1", ["prompts.validation.count", "-1"]),
    "a key given twice": ("name: demo", "name: demo\nname: other", ["name", "twice", "line"]),
    "text for a number": ("iterations: 64", "iterations: many", ["iterations", "'many'"]),
    "an empty list": ("rewards: [hpsv2]", "rewards: []", ["rewards"]),
    "an unknown cell": (
        "name: demo",
        "name: demo\ncells: {hpsv2/rocm-kll: {beta: 0.01}}",
        ["cells.hpsv2/rocm-kll", "rocm-kl"],
    ),
    "a missing section": ("name: demo\n", "", ["name"]),
    "a list for a mapping": (
        "generation: {seed: 1000, batch_size: 50}",
        "generation: [1000, 50]",
        ["generation"],
    ),
}


def write_broken(case: str, folder: Path) -> Path:
    old, new, _ = BROKEN[case]
    good = (ROOT / "config/demo.yaml").read_text()
    assert good.count(old) == 1
    (folder / "broken.yaml").write_text(good.replace(old, new))
    return folder / "broken.yaml"


def sentence(broken: Path) -> str:
    """What is said of a broken configuration, whoever reads it."""
    with pytest.raises(UserError) as error:
        load_config(broken)
    return str(error.value)


@pytest.mark.parametrize("case", BROKEN)
def test_one_sentence_names_the_file_and_the_key(tmp_path: Path, case: str) -> None:
    said = sentence(write_broken(case, tmp_path))
    assert len(said.splitlines()) == 1
    for word in ["broken.yaml", *BROKEN[case][2]]:
        assert word in said


# One that only the reader of the file can see, and one that the checks of its values find.
@pytest.mark.parametrize("case", ["a key given twice", "a misspelt key"])
def test_snakemake_says_the_same_sentence_and_starts_no_job(
    pristine: Checkout, tmp_path: Path, case: str
) -> None:
    broken = write_broken(case, tmp_path)
    done = pristine.snakemake("--cores", "1", "all", "--configfile", str(broken))
    assert done.returncode != 0
    assert done.stdout == ""
    (said,) = (line for line in done.stderr.splitlines() if not line.startswith("Using workflow"))
    relative = os.path.relpath(broken, pristine.path)
    assert said.replace(relative, str(broken)) == f"error: {sentence(broken)}"
    assert not (pristine.path / "results/demo").exists()


def test_broken_yaml_is_refused(pristine: Checkout, tmp_path: Path) -> None:
    """By Snakemake's own reader, which comes first."""
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: demo\n  world: [shapes\n")
    done = pristine.snakemake("--cores", "1", "all", "--configfile", str(broken))
    assert done.returncode != 0
    assert "not valid JSON or YAML" in done.stderr and "Traceback" not in done.stderr
