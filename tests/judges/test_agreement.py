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
from PIL import Image

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

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="`make judges` has not been run")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("agreement")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        twins.write_hpsv2(twins.PICKLES["hpsv2"])
        twins.write_imagereward(twins.FOLDERS["imagereward"], size=224, text=768)
        record([twins.ROOT])
    (root / "samples").mkdir()
    rng, lines = np.random.default_rng(0), []
    for index, prompt in enumerate(PROMPTS):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        # Of the size that image-reward would resize to with PIL, which rounds to 8 bits.
        photo = coarse.resize((224, 224), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 8, (224, 224, 3))
        photo = Image.fromarray((np.asarray(photo) + noise).clip(0, 255).astype(np.uint8))
        photo.save(root / f"samples/{index}.png")
        entry = {"prompt_id": str(index), "text": prompt, "file": f"{index}.png"}
        lines.append(json.dumps(entry) + "\n")
    (root / "samples/index.jsonl").write_text("".join(lines))
    return root


def read(path: Path) -> dict[tuple[str, str], float]:
    with open(path, newline="") as file:
        return {(r["prompt_id"], r["metric"]): float(r["value"]) for r in csv.DictReader(file)}


def test_ours_and_the_published_scorers_agree(place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(hpsv2, "ARCHITECTURE", twins.ARCHITECTURE)
    chosen = {name: str(twins.FOLDERS[name]) for name in ("hpsv2", "imagereward")}
    score_folder(chosen, place / "samples", place / "ours.csv", "code")
    done = subprocess.run(
        [PYTHON, ROOT / "tests/judges/judge_twins.py", json.dumps(twins.open_clip_config())]
        + [json.dumps(chosen), "samples", "judged.csv"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = read(place / "ours.csv"), read(place / "judged.csv")
    assert ours.keys() == theirs.keys() and len(ours) == 2 * len(PROMPTS)
    for name in chosen:
        pairs = [(ours[key], theirs[key]) for key in ours if key[1] == name]
        assert np.std([pair[1] for pair in pairs]) > 1e-3
        assert max(abs(a - b) for a, b in pairs) < 1e-4, (name, pairs)
