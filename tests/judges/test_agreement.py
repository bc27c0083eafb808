"""Our scorers give the published packages' scores: same weights, same images, same prompts."""

import csv
import json
import os
import subprocess
from pathlib import Path

import rocm_core._torchvision  # noqa: F401  (before open_clip and transformers)

import numpy as np
import pytest
import torch
import twins
from checkout import ROOT

from rocm_core.fetching import record
from rocm_core.rewards import hpsv2
from rocm_core.scoring import score_folder

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
        twins.write_imagereward(twins.FOLDERS["imagereward"], size=224, text=768)
        record([twins.ROOT])
    for size in SIZES:
        folder, lines = root / f"samples-{size}", []
        folder.mkdir()
        for index, prompt in enumerate(PROMPTS):
            twins.photograph(size, index).save(folder / f"{index}.png")
            entry = {"prompt_id": str(index), "text": prompt, "file": f"{index}.png"}
            lines.append(json.dumps(entry) + "\n")
        (folder / "index.jsonl").write_text("".join(lines))
    return root


def read(path: Path) -> dict[tuple[str, str], float]:
    with open(path, newline="") as file:
        return {(r["prompt_id"], r["metric"]): float(r["value"]) for r in csv.DictReader(file)}


@pytest.mark.parametrize("size", SIZES)
def test_ours_and_the_published_scorers_agree(place: Path, monkeypatch, size: int) -> None:
    if not PYTHON.exists():
        assert "ROCM_NEEDS_JUDGES" not in os.environ, "`make judges` has not been run"
        pytest.skip("`make judges` has not been run")
    monkeypatch.chdir(place)
    monkeypatch.setattr(hpsv2, "ARCHITECTURE", twins.ARCHITECTURE)
    names = ("hpsv2", "hpsv2_0", "imagereward", "pickscore")
    chosen = {name: str(twins.FOLDERS[name]) for name in names}
    score_folder(chosen, place / f"samples-{size}", place / "ours.csv", "code")
    done = subprocess.run(
        [PYTHON, ROOT / "tests/judges/judge_twins.py", json.dumps(twins.open_clip_config())]
        + [json.dumps(chosen), f"samples-{size}", "judged.csv"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = read(place / "ours.csv"), read(place / "judged.csv")
    assert ours.keys() == theirs.keys() and len(ours) == 4 * len(PROMPTS)
    for name in chosen:
        pairs = [(ours[key], theirs[key]) for key in ours if key[1] == name]
        assert np.std([pair[1] for pair in pairs]) > 1e-3
        assert max(abs(a - b) for a, b in pairs) < 1e-4, (name, pairs)
