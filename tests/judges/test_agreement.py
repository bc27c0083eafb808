"""Our scorers give the published packages' scores: same weights, same images, same prompts."""

import csv
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import twins
from checkout import ROOT, copy_checkout

from rocm_core.evaluation import score_folder
from rocm_core.rewards import hpsv2
from rocm_core.weights import record

PYTHON = ROOT / ".venv-judges/bin/python"
PROMPTS = [
    "a photo of a cat, 4k.",
    "",
    "a red cube beside a blue ring " * 50,  # 350 words
    "🦊🌊 fox & <b>wave</b>",
    "星の夜、猫が歩く Ночь café",
]

SIZES = (224, 512, 768)  # the scorers' own, and those of generated images


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("agreement")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("hpsv2", "hpsv2_0"):
            twins.write_hpsv2(twins.PICKLES[name])
        twins.write_clip(twins.FOLDERS["pickscore"])
        twins.write_clip(twins.FOLDERS["clipscore"], width=128, embedding=768)
        twins.write_head(twins.PICKLES["aesthetic"], 768)
        twins.write_blip(twins.FOLDERS["blipscore"], size=224, text=768)
        twins.write_imagereward(twins.FOLDERS["imagereward"], size=224, text=768)
        record([twins.ROOT])
    every = []
    for size in SIZES:
        folder, entries = root / f"samples-{size}", []
        folder.mkdir()
        for index, prompt in enumerate(PROMPTS):
            twins.photograph(size, index).save(folder / f"{index}.png")
            entries.append({"prompt_id": str(index), "text": prompt, "file": f"{index}.png"})
            file = f"../{folder.name}/{index}.png"
            every.append(entries[-1] | {"prompt_id": f"{size}-{index}", "file": file})
        write_index(folder, entries)
    (root / "samples").mkdir()
    write_index(root / "samples", every)
    return root


def write_index(folder: Path, entries: list[dict[str, str]]) -> None:
    lines = [json.dumps(entry) + "\n" for entry in entries]
    (folder / "index.jsonl").write_text("".join(lines))


@pytest.fixture
def judge(place: Path, monkeypatch) -> list[str]:
    """The judges' interpreter, to be followed by a script; here and there the networks are tiny."""
    if not PYTHON.exists():
        assert "ROCM_NEEDS_JUDGES" not in os.environ, "`make judges` has not been run"
        pytest.skip("`make judges` has not been run")
    monkeypatch.chdir(place)
    monkeypatch.setattr(hpsv2, "ARCHITECTURE", twins.ARCHITECTURE)
    monkeypatch.setenv("TWIN", json.dumps(twins.open_clip_config()))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return [str(PYTHON), str(ROOT / "tests/judges/judge_twins.py")]


def read(path: Path) -> dict[tuple[str, str], float]:
    with open(path, newline="") as file:
        return {(r["prompt_id"], r["metric"]): float(r["value"]) for r in csv.DictReader(file)}


def test_ours_and_the_published_scorers_agree(place: Path, judge: list[str]) -> None:
    """The published ones score images of every size in one process: it takes long to start."""
    chosen = {name: str(folder) for name, folder in twins.FOLDERS.items()}
    del chosen["clipscore_hessel"]  # its authors publish a script, not a package
    done = subprocess.run(
        [*judge, ROOT / "workflow/scripts/score_published.py", "--scorers", json.dumps(chosen)]
        + ["--samples", "samples", "--output", "published.csv"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    theirs = read(place / "published.csv")
    assert len(theirs) == len(chosen) * len(PROMPTS) * len(SIZES)
    for size in SIZES:
        score_folder(chosen, place / f"samples-{size}", place / "ours.csv", "code")
        ours = read(place / "ours.csv")
        assert len(ours) == len(chosen) * len(PROMPTS)
        for name in chosen:
            pairs = [
                (value, theirs[f"{size}-{prompt}", metric])
                for (prompt, metric), value in ours.items()
                if metric == name
            ]
            assert np.std([pair[1] for pair in pairs]) > 1e-3
            assert max(abs(a - b) for a, b in pairs) < 1e-4, (size, name, pairs)


@pytest.mark.parametrize(
    ("name", "kind"), [("hpsv2", "is not finite"), ("imagereward", "is missing")]
)
def test_a_published_scorer_is_loaded_whole_and_finite_or_not_at_all(
    place: Path, judge: list[str], tmp_path: Path, monkeypatch, name: str, kind: str
) -> None:
    """The packages themselves would fill up what is missing at random."""
    shutil.copytree(place / twins.ROOT, tmp_path / twins.ROOT)
    monkeypatch.chdir(tmp_path)
    content = torch.load(twins.PICKLES[name], weights_only=True)
    state = content.get("state_dict", content)
    key = next(key for key in state if key.endswith("weight"))
    value = state.pop(key)
    if kind == "is not finite":
        state[key] = value * torch.nan
    torch.save(content, twins.PICKLES[name])
    record([twins.ROOT])
    chosen = json.dumps({name: str(twins.FOLDERS[name])})
    done = subprocess.run(
        [*judge, ROOT / "workflow/scripts/score_published.py", "--scorers", chosen]
        + ["--samples", place / "samples-224", "--output", "published.csv"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and f"{key} {kind}" in done.stderr.splitlines()[-1], done.stderr
    assert not Path("published.csv").exists()


CONFIG = """\
name: twins
world: paper
policies:
  consistency: {model: my/own, steps: 8, guidance_scale: 7.5}
scorers:
  hpsv2: models/HPSv2
  hpsv2_0: models/HPSv2.0
  imagereward: models/ImageReward
prompts:
  train: {source: train.txt}
  validation: {source: validation.txt}
rewards: [hpsv2]
methods: {rocm-none: }
published: [hpsv2, hpsv2_0, imagereward]
"""


def test_the_workflow_writes_the_table_of_differences(
    place: Path, judge: list[str], tmp_path: Path, monkeypatch
) -> None:
    checkout = copy_checkout(tmp_path)
    (tmp_path / "config/twins.yaml").write_text(CONFIG)
    for name in ("models", "weights.lock"):
        (tmp_path / name).symlink_to(place / name)
    interpreter = tmp_path / ".venv-judges/bin/python"
    interpreter.parent.mkdir(parents=True)
    # Without `-m rocm_core.commands.launch --gpus N`, which would go on in another Python, one that
    # knows no twins.
    interpreter.write_text(f'#!/bin/sh\nshift 4\nexec {shlex.join(judge)} "$@"\n')
    interpreter.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    names = ("hpsv2", "hpsv2_0", "imagereward")
    chosen = {name: str(twins.FOLDERS[name]) for name in names}
    for source in ("base-consistency", "hpsv2/rocm-none/seed-0"):
        folder = tmp_path / f"results/twins/samples/{source}/validation/steps-8"
        shutil.copytree(place / "samples-224", folder)
        score_folder(chosen, folder, folder / "scores.csv", "code")
        # Files of nobody: results of other code than the checkout's would be refused.
        (folder / "scores.manifest.json").unlink()
    target = "results/twins/tables/scorer_agreement.csv"
    rules = ["--allowed-rules", "score_published", "scorer_agreement"]
    done = checkout.snakemake(target, "--cores", "1", *rules, "--configfile", "config/twins.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    with open(tmp_path / target, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["metric"], row["images"]) for row in rows] == [
        (name, str(2 * len(PROMPTS))) for name in sorted(names)
    ]
    for row in rows:
        assert float(row["largest_difference"]) < 1e-4 and float(row["correlation"]) > 0.999
