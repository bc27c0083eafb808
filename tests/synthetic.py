"""A results directory with planted effects, as the workflow would leave it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from rocm_core.config import Config, parse_config
from rocm_core.grid import generation_settings, make_grid
from rocm_core.prompts import Prompt, write_prompts

LEVELS = {"gold": 0.6, "hpsv2": 0.27, "aesthetic": 5.2, "clipscore": 0.24}
SPREADS = {"gold": 0.15, "hpsv2": 0.02, "aesthetic": 0.4, "clipscore": 0.03}
Effects = dict[tuple[str, str], dict[str, float]]


def make_config(**changes: Any) -> Config:
    """Two rewards, four methods, one seed; `changes` replace top-level keys."""
    values: dict[str, Any] = {
        "name": "synthetic",
        "world": "shapes",
        "policies": {"consistency": {"model": "base", "steps": 4, "guidance_scale": 3.0}},
        "scorers": {name: None for name in LEVELS},
        "prompts": {
            "train": {"source": "shapes", "count": 64, "seed": 1},
            "validation": {"source": "shapes", "count": 40, "seed": 2},
        },
        "rewards": ["hpsv2", "aesthetic"],
        "methods": {"rocm-none": {}, "rocm-kl": {"beta": 0.05}, "rocm-js": {"beta": 0.5}},
        "training": {"iterations": 40, "snapshot_every": 10},
        "monitor": {"prompts": 16},
    }
    return parse_config(values | changes)


def write_results(
    root: Path, config: Config, effects: Effects | None = None, size: int = 8
) -> None:
    """Write a finished run: each (reward, method) moves metrics by its `effects` at the end of
    training, linearly over the steps, the same for every prompt but for a little noise."""
    effects = effects or {}
    count = config.prompts["validation"].count or 40
    prompts = [Prompt(f"p{i:04d}", f"a red circle, picture {i}", "synthetic") for i in range(count)]
    write_prompts(root / "prompts" / "validation.jsonl", prompts)
    generator = np.random.default_rng(0)
    level = {
        metric: LEVELS[metric] + SPREADS[metric] * generator.standard_normal(count)
        for metric in config.metrics
    }

    def scores(effect: dict[str, float], share: float, n: int) -> pd.DataFrame:
        frames = []
        for metric in config.metrics:
            noise = share * SPREADS[metric] * 0.3 * generator.standard_normal(n)
            value = level[metric][:n] + share * effect.get(metric, 0.0) + noise
            ids = [p.id for p in prompts[:n]]
            frames.append(pd.DataFrame({"prompt_id": ids, "metric": metric, "value": value}))
        return pd.concat(frames)

    for policy in config.policies:
        steps = generation_settings(config, policy).inference_steps
        folder = root / "samples" / f"base-{policy}" / "validation" / f"steps-{steps}"
        _write_images(folder, prompts, (90, 90, 90), size)
        scores({}, 0.0, count).to_csv(folder / "scores.csv", index=False)

    for number, cell in enumerate(make_grid(config)):
        effect = effects.get((cell.reward, cell.method), {})
        steps = generation_settings(config, cell).inference_steps
        folder = root / "samples" / cell.name / "validation" / f"steps-{steps}"
        _write_images(folder, prompts, (30 * number % 255, 120, 60), size)
        scores(effect, 1.0, count).to_csv(folder / "scores.csv", index=False)
        _write_training(root / "cells" / cell.name, cell)

        frames = []
        iterations, n = cell.settings.iterations, config.monitor.prompts
        for step in [0, *cell.settings.snapshot_steps]:
            frame = scores(effect, step / iterations, n)
            distance = pd.DataFrame(
                {
                    "prompt_id": [p.id for p in prompts[:n]],
                    "metric": "squared_distance",
                    "value": effect.get("squared_distance", 8.0) * step / iterations,
                }
            )
            frames.append(pd.concat([frame, distance]).assign(step=step))
        path = root / "samples" / cell.name / "snapshots" / "scores.csv"
        path.parent.mkdir(parents=True)
        pd.concat(frames)[["step", "prompt_id", "metric", "value"]].to_csv(path, index=False)


def _write_images(folder: Path, prompts: list[Prompt], colour: tuple[int, ...], size: int) -> None:
    folder.mkdir(parents=True)
    for prompt in prompts[:8]:
        Image.new("RGB", (size, size), colour).save(folder / f"{prompt.id}.png")


def _write_training(folder: Path, cell: Any) -> None:
    folder.mkdir(parents=True)
    step = np.arange(1, cell.settings.iterations + 1)
    columns: dict[str, Any] = {"step": step, "reward": 0.3 + 0.001 * step, "seconds": step * 0.5}
    for k in range(cell.settings.inference_steps, 1, -1):
        measured = cell.settings.divergence != "none"
        columns[f"squared_distance_{k}"] = step / (10.0 * k) if measured else None
    columns["squared_distance"] = None
    pd.DataFrame(columns).to_csv(folder / "history.csv", index=False)
    manifest = {
        "settings": cell.settings.to_dict(),
        "code": "c0de" * 16,
        "commit": "abcdef0123456789",
        "packages": {"torch": "2.13.0"},
        "device": "cpu",
        "seconds": 20.0,
        "peak_memory_gib": 0.5,
        "attempts": 1,
        "beta": 0.07 if cell.settings.beta == "auto" else cell.settings.beta,
        "reward_queries": 8 * cell.settings.iterations,
        "unet_passes": 32 * cell.settings.iterations,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
