"""A results directory with planted effects, as the workflow would leave it."""

import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from rocm_core.analysis import Results
from rocm_core.claims import CLAIMS
from rocm_core.claims._evidence import Evidence
from rocm_core.claims._verdict import Verdict, decide
from rocm_core.configuration import Config
from rocm_core.grid import (
    Artefacts,
    base_runs,
    compared_gradients,
    evaluation_sets,
    lora_scales,
    make_grid,
    measured_steps,
    parse_config,
    sample_sets,
    scaled_sets,
    snapshot_steps,
)
from rocm_core.prompts import Prompt, write_prompts

LEVELS = {"gold": 0.6, "hpsv2": 0.27, "hpsv2_0": 0.28, "aesthetic": 5.2, "clipscore": 0.24}
SPREADS = {"gold": 0.15, "hpsv2": 0.02, "hpsv2_0": 0.02, "aesthetic": 0.4, "clipscore": 0.03}
Effects = dict[tuple[str, str], dict[str, float]]
Row = tuple[Any, ...]  # of a table: prompt, metric, value, and of snapshots the step first


def make_config(**changes: Any) -> Config:
    """Two rewards, four methods, one seed; `changes` replace top-level keys."""
    values: dict[str, Any] = {
        "name": "synthetic",
        "world": "shapes",
        "policies": {"consistency": {"model": "base", "steps": 4, "guidance_scale": 3.0}},
        "scorers": dict.fromkeys(["gold", "hpsv2", "aesthetic", "clipscore"]),
        "prompts": {
            "train": {"source": "shapes", "count": 64, "seed": 1},
            "validation": {"source": "shapes", "count": 40, "seed": 2},
        },
        "rewards": ["hpsv2", "aesthetic"],
        "methods": {"rocm-none": {}, "rocm-kl": {"beta": 0.05}, "rocm-js": {"beta": 0.5}},
        "training": {"iterations": 40, "snapshot_every": 10},
        "snapshots": {"prompts": 16},
    }
    return parse_config(values | changes)


# ROCM and all four baselines.
FOUR: dict[str, Any] = {
    **{"rocm-none": {}, "rocm-kl": {"beta": 0.05}, "rlcm": {}, "ddpo": {}},
    "dpok": {"beta": 0.01},
    "d3po": {"beta": 0.1, "batch_size": 2, "images_per_prompt": 2},
}


def make_wide_config(**changes: Any) -> Config:
    """Two policies, five methods, two seeds, sweeps of the horizon and of β, several numbers of
    inference steps, a prompt set beside the validation prompts and a study: the data of every table
    and figure."""
    values: dict[str, Any] = {
        "policies": {
            "consistency": {"model": "base", "steps": 4, "guidance_scale": 3.0},
            "diffusion": {"model": "teacher", "steps": 10, "guidance_scale": 3.0},
        },
        "prompts": {
            "train": {"source": "shapes", "count": 64, "seed": 1, "without": ["ring"]},
            "validation": {"source": "shapes", "count": 40, "seed": 2, "without": ["ring"]},
            "rings": {"source": "shapes", "count": 24, "seed": 3, "containing": ["ring"]},
        },
        "methods": {
            "rocm-none": {},
            "rocm-kl": {"beta": 0.05},
            "rlcm": {},
            "ddpo": {},
            "dpok": {"beta": 0.01},
        },
        "sweeps": [
            {"methods": ["rlcm"], "setting": "inference_steps", "values": [2, 4, 8]},
            {"methods": ["rocm-kl"], "setting": "beta", "values": [0.5, 0.005]},
        ],
        "study": {
            "comparisons": [
                [f"{reward}/rocm-kl/seed-0", f"{reward}/rlcm/seed-0"]
                for reward in ("hpsv2", "aesthetic")
            ],
            "pairs": 20,
        },
        "seeds": [0, 1],
        "generation": {"inference_steps": [None, 1, 2], "lora_scale": [1.0, 0.0, 0.5]},
    }
    values |= changes
    compared = [method for method in ("rocm-none", "rlcm") if method in values["methods"]]
    return make_config(**({"gradients": {"methods": compared}} | values))


def write_results(
    root: Path, config: Config, effects: Effects | None = None, size: int | None = None
) -> None:
    """Write a finished run: each (reward, method) moves metrics by its `effects` at the end of
    training, linearly over the steps, the same for every prompt but for a little noise; `slope` is
    the gain of the training reward a step. On sets beside the validation prompts half of an effect
    is left. An image takes 0.01 s a step; its read-outs move by `high_frequency`. There are images
    if they have a size."""
    effects = effects or {}
    count = config.prompts["validation"].count or 40
    prompts = [Prompt(f"p{i:04d}", f"a red circle, picture {i}", "synthetic") for i in range(count)]
    write_prompts(root / "prompts" / "validation.jsonl", prompts)
    generator = np.random.default_rng(0)
    level = {
        metric: LEVELS[metric] + SPREADS[metric] * generator.standard_normal(count)
        for metric in config.metrics
    }

    def scores(effect: dict[str, float], share: float, n: int) -> list[Row]:
        rows = []
        for metric in config.metrics:
            noise = share * SPREADS[metric] * 0.3 * generator.standard_normal(n)
            rows += _rows(metric, level[metric][:n] + share * effect.get(metric, 0.0) + noise)
        return rows

    def write_samples(source: Any, name: str, effect: dict[str, float], shade: int) -> None:
        drawn = [(*one, 1.0) for one in sample_sets(config, evaluation_sets(config, cells), source)]
        scales = zip(scaled_sets(config, source), lora_scales(config)[1:], strict=False)
        for prompt_set, steps, scale in [*drawn, *((*one, scale) for one, scale in scales)]:
            folder = root / "samples" / name / prompt_set / f"steps-{steps}"
            n = min(count, config.prompts[prompt_set].count or count)
            share = (1.0 if prompt_set == "validation" else 0.5) if effect or shade else 0.0
            share *= scale
            _write_images(folder, prompts, (shade, 120, 60), size)
            _write_csv(folder / "scores.csv", "prompt_id,metric,value", scores(effect, share, n))
            if prompt_set == "validation":
                detail = level.get("gold", np.zeros(count))[:n]
                risen = effect.get("high_frequency", 0.0) * np.linspace(0.9, 1.1, n)
                energy = 0.1 + 0.02 * detail + risen
                readouts = {"high_frequency": energy, "pixel_diversity": np.full(n, 0.2)}
                readouts["clip_diversity"] = np.full(n, 0.3)
                rows = [row for metric, values in readouts.items() for row in _rows(metric, values)]
                _write_csv(folder / "readouts.csv", "prompt_id,metric,value", rows)
            manifest = {"seconds_per_image": 0.01 * int(str(steps).partition("--")[0])}
            (folder / "manifest.json").write_text(json.dumps(manifest))

    cells = make_grid(config)
    signals, own = {"rocm": 0.1, "rlcm": 0.01}, np.random.default_rng(1)
    for policy in dict.fromkeys(cell.settings.policy for cell in cells):
        write_samples(policy, f"base-{policy}", {}, 0)
    for path, (_, _, scorers) in Artefacts(config, root).measured_bases().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        known = {name: {"mean": LEVELS[name], "std": SPREADS[name]} for name in scorers}
        path.write_text(json.dumps({"prompts": 64, "scorers": known}))

    for number, cell in enumerate(cells):
        effect = effects.get((cell.reward, cell.variant), {})
        write_samples(cell, cell.name, effect, 1 + 30 * number % 250)
        slope = effect.get("slope", 0.001)
        _write_training(root / "cells" / cell.name, cell, slope, config.base_rewards)
        if compared := compared_gradients(config, cells, cell):
            lines = [
                (at, other, 64, signals[other.split("-")[0]] * own.uniform(0.98, 1.02), 1.0)
                for at in measured_steps(cell, [*compared])
                for other in compared
            ]
            header = "at,gradient,images,squared_mean,variance"
            _write_csv(root / "cells" / cell.name / "gradients.csv", header, lines)

        if run := base_runs(config, cells).get(cell.name):
            path = root / "base_rewards" / run.policy / f"{run.key}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            # As the trainings' rewards do, it follows the prompts drawn.
            steps = range(1, cell.settings.iterations + 1)
            rows = [(n, reward, 0.3 + n % 7) for n in steps for reward in config.rewards]
            _write_csv(path, "step,metric,value", rows)
        rows: list[Row] = []
        iterations, n = cell.settings.iterations, config.snapshots.prompts
        for step in [0, *snapshot_steps(cell.settings)]:
            distance = effect.get("squared_distance", 8.0) * step / iterations
            measured = scores(effect, step / iterations, n)
            measured += _rows("squared_distance", np.full(n, distance))
            rows += [(step, *row) for row in measured]
            folder = root / "samples" / cell.name / "snapshots" / f"step-{step}"
            _write_images(folder, prompts[:n], (2 * step, 120, 60), size)
        path = root / "samples" / cell.name / "snapshots" / "scores.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_csv(path, "step,prompt_id,metric,value", rows)
    if config.study:
        write_votes(root, config.study.comparisons)


def verdict_on(claim: str, root: Path, config: Config) -> Verdict:
    """What the ledger makes of one claim."""
    (asked,) = [one for one in CLAIMS if one.id == claim]
    return decide(asked, Evidence(Results(config, root)))


def write_votes(root: Path, comparisons: Any) -> None:
    """What 3 raters of a study said about 20 pairs a comparison: 36 wins, 6 ties, 18 losses."""
    numbers = {"raters": 3, "pairs": 20, "votes": 60, "wins": 36, "ties": 6, "losses": 18}
    numbers |= {"win_rate": 0.65, "win_rate_low": 0.52, "win_rate_high": 0.77, "agreement": 0.4}
    outcomes = [
        {"first": first, "second": second, "question": question} | numbers
        for first, second in comparisons
        for question in ("appeal", "alignment", "preference")
    ]
    folder = root / "study"
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"outcomes": outcomes}))
    (folder / "votes.jsonl").touch()


def _rows(metric: str, values: np.ndarray) -> list[Row]:
    return [(f"p{i:04d}", metric, value) for i, value in enumerate(values.tolist())]


def _write_csv(path: Path, header: str, rows: list[Row]) -> None:
    """As pandas would, which takes seconds for the hundreds of tables of a wide grid."""
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    path.write_text("".join(f"{line}\n" for line in lines))


@functools.cache
def _png(colour: tuple[int, ...], size: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, "PNG")
    return file.getvalue()


def _write_images(
    folder: Path, prompts: list[Prompt], colour: tuple[int, ...], size: int | None
) -> None:
    folder.mkdir(parents=True)
    for prompt in prompts[:12] if size else ():
        (folder / f"{prompt.id}.png").write_bytes(_png(colour, size))


def _write_training(folder: Path, cell: Any, slope: float, follows: bool) -> None:
    folder.mkdir(parents=True)
    step = np.arange(1, cell.settings.iterations + 1)
    per_step = cell.settings.inference_steps * (4 if cell.settings.policy == "diffusion" else 1)
    # Seeds differ, by another amount in each kind of training: else no difference of two would.
    apart = (0.0021 if cell.method.startswith("rocm") else 0.002) * cell.seed
    drawn = step % 7 if follows else 0.0
    apart += 0.0002 * (cell.seed - 0.5) if cell.settings.policy == "diffusion" else 0.0
    columns: dict[str, Any] = {"step": step, "reward": 0.3 + slope * step + apart + drawn}
    columns |= {"training_seconds": step * 0.125 * per_step, "reward_queries": 8 * step}
    columns |= {"nfe": 8 * per_step * step}
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
        "job_seconds": 20.0,
        "peak_memory_gib": 0.5,
        "attempts": 1,
        "beta": cell.settings.beta if isinstance(cell.settings.beta, float) else 0.07,
        "reward_queries": 8 * cell.settings.iterations,
        "nfe": 32 * cell.settings.iterations,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
