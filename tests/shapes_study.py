"""Samples of two models of the shapes world, one of which follows its prompts more often.

`PYTHONPATH=. python tests/shapes_study.py FOLDER` lets simulated raters answer a whole study of
them in a browser, and prints what was planted beside what the votes say.
"""

import argparse
import json
from pathlib import Path
from statistics import NormalDist, fmean

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from rocm_core.configuration import StudySettings
from rocm_core.evaluation import save_png
from rocm_core.prompts import Prompt, read_prompts, write_prompts
from rocm_core.shapes.judge import judge
from rocm_core.shapes.scenes import describe, draw_scenes, render
from rocm_core.study.aggregate import aggregate
from rocm_core.study.build import build
from rocm_core.study.design import Key
from rocm_core.study.simulate import INDIFFERENT, NOISE, open_browser, simulate

FIRST, SECOND = "hpsv2/rocm-kl/seed-0", "hpsv2/rlcm/seed-0"
FAULTS = {FIRST: 0.2, SECOND: 0.6}  # share of images of something else


def write_samples(root: Path, count: int) -> tuple[dict[str, Path], list[Prompt]]:
    """Folders of images as the workflow leaves them, and their prompts, two thirds of `hpsv2`."""
    generator = torch.Generator().manual_seed(0)
    scenes = draw_scenes(count, generator)
    prompts = [
        Prompt(f"{i:05d}", text, "parti" if i % 3 == 0 else "hpsv2")
        for i, text in enumerate(describe(scenes))
    ]
    write_prompts(root / "prompts.jsonl", prompts)
    folders = {}
    for name, share in FAULTS.items():
        folder = folders[name] = root / "samples" / name / "validation" / "steps-4"
        folder.mkdir(parents=True)
        right, wrong = render(scenes, generator), render(draw_scenes(count, generator), generator)
        faulty = torch.rand(count, generator=generator) < share
        images = torch.where(faulty[:, None, None, None], wrong, right)
        rows = []
        for prompt, image in zip(prompts, images, strict=True):
            file = folder / f"{prompt.id}.png"
            save_png(image, file)
            note = PngInfo()
            note.add_text("model", name)  # as some pipelines do
            with Image.open(file) as plain:
                plain.save(file, pnginfo=note)
            rows.append({"prompt_id": prompt.id, "text": prompt.text, "file": file.name})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "index.jsonl").write_text(lines)
    return folders, prompts


def settings(pairs: int, **changes) -> StudySettings:
    values = {
        "comparisons": [[FIRST, SECOND]],
        "prompts": "validation",
        "pairs": pairs,
        "shares": {},
        "seed": 0,
        "raters": 4,
        "ties": True,
    }
    return StudySettings.from_dict(values | changes)


def make_study(root: Path, pairs: int, **changes) -> tuple[Path, Key]:
    """A built study of `pairs` pairs, its folder and key."""
    folders, prompts = write_samples(root, pairs)
    folder = root / "study"
    return folder, build(settings(pairs, **changes), folders, prompts, folder)


def planted(root: Path, key: Key) -> dict[str, float]:
    """The win rate of each question that simulated raters have on average, from the verdicts."""
    texts = {prompt.id: prompt.text for prompt in read_prompts(root / "prompts.jsonl")}
    shown = [pair.prompt for pair in key.pairs.values()]
    verdicts = []
    for name in (FIRST, SECOND):
        folder = root / "samples" / name / "validation" / "steps-4"
        images = torch.stack([read_png(folder / f"{prompt}.png") for prompt in shown])
        verdicts.append(judge(images, [texts[prompt] for prompt in shown]))
    gains = (verdicts[0] - verdicts[1]).tolist()
    return {q: fmean(expected_score(gain, q) for gain in gains) for q in NOISE}


def expected_score(difference: float, question: str) -> float:
    """P(win) + ½ P(tie) of an image whose gold score is higher by `difference`."""
    noise = NormalDist(difference, NOISE[question])
    return 1 - (noise.cdf(INDIFFERENT) + noise.cdf(-INDIFFERENT)) / 2


def read_png(file: Path) -> torch.Tensor:
    """An image (3, H, W) in [0, 1]."""
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB")).copy()
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--raters", type=int, default=3)
    args = parser.parse_args()
    folder, key = make_study(
        args.folder, args.pairs, raters=args.raters, shares={"parti": 1, "hpsv2": 2}
    )
    with open_browser() as browser:
        simulate(folder, browser, args.raters, seed=0)
    truth = planted(args.folder, key)
    for found in aggregate(folder):
        print(f"{found.question}: planted {truth[found.question]:.3f}, found {found.win_rate}")


if __name__ == "__main__":
    main()
