"""Scores of images on the disk, by one scorer after the other, in long form: one number a row."""

import csv
import io
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from rocm_core.errors import UserError
from rocm_core.prompts import Prompt
from rocm_core.provenance import atomic_write, write_manifest
from rocm_core.rewards import load_reward
from rocm_core.settings import GenerationSettings

BATCH_SIZE = 64


@dataclass(frozen=True)
class Sample:
    """An image of a prompt; `key` are the columns of its rows before metric and value."""

    key: tuple[str, ...]
    text: str
    file: Path


def score_folder(
    scorers: Mapping[str, str | Path | None],
    samples: Path,
    output: Path,
    fingerprint: str,
    batch_size: int = BATCH_SIZE,
) -> None:
    """Score the images that samples/index.jsonl lists; write prompt_id, metric, value to `output`.

    scorers: {metric: folder of its weights, or None}. A manifest, <output stem>.manifest.json, is
    written after the scores. Raises `UserError` for a missing or damaged image, index or scorer and
    for a score that is not a finite number; `output` is then left as it was.
    """
    began = time.perf_counter()
    rows = [*score(read_index(samples), scorers, batch_size)]
    write_scores(output, ("prompt_id",), rows)
    _write_manifest(
        output.with_suffix(".manifest.json"),
        settings={"scorers": _texts(scorers), "batch_size": batch_size},
        code=fingerprint,
        outputs=[output],
        weights=[path for path in scorers.values() if path],
        began=began,
    )


def monitor(
    settings: GenerationSettings,
    scorers: Mapping[str, str | Path | None],
    prompts: Sequence[Prompt],
    snapshots: Path,
    output: Path,
    fingerprint: str,
) -> None:
    """Generate and score images of a training's snapshots/step-<n>.safetensors; step 0 is the base.

    Writes output/step-<n>/<prompt id>.png, scores.csv (step, prompt_id, metric, value) and
    manifest.json. The metric `squared_distance` is Σ_k |mean_k - reference mean_k|²/std_k² along
    the sample's own trajectory; half of it is the KL divergence to the base in nats. Raises
    `UserError` as `score_folder` does, and where there is no snapshot or no prompt.
    """
    from rocm_core.generation import iterate_images, save_png
    from rocm_core.lora import load_lora
    from rocm_core.policies import load_policy

    began = time.perf_counter()
    names = (re.fullmatch(r"step-(\d+)\.safetensors", file.name) for file in snapshots.glob("*"))
    steps = [0, *sorted(int(name[1]) for name in names if name)]
    files = [snapshots / f"step-{step}.safetensors" for step in steps[1:]]
    if not files or not prompts:
        raise UserError(f"{snapshots} holds no snapshot to judge, or there is no prompt")
    (output / "manifest.json").unlink(missing_ok=True)  # of images that are now replaced
    policy = load_policy(
        settings.policy,
        settings.model,
        settings.inference_steps,
        settings.guidance_scale,
        _device(),
        lora=settings.model_lora,
    )
    samples, rows = [], []
    for step in tqdm(steps, desc="generation", unit="snapshot", disable=None):
        if step:
            load_lora(policy.unet, snapshots / f"step-{step}.safetensors")
        folder = output / f"step-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        for batch, images, trajectory in iterate_images(
            policy, prompts, settings.seed, settings.batch_size, "full" if step else None
        ):
            distances = torch.zeros(len(batch))
            if step:
                distances = trajectory.squared_distances().sum(1)
            for prompt, image, distance in zip(batch, images, distances.tolist(), strict=True):
                sample = Sample((str(step), prompt.id), prompt.text, folder / f"{prompt.id}.png")
                save_png(image, sample.file)
                samples.append(sample)
                rows.append((*sample.key, "squared_distance", distance))
    passes = policy.unet_passes
    del policy
    rows += score(samples, scorers, settings.batch_size)
    write_scores(output / "scores.csv", ("step", "prompt_id"), rows)
    _write_manifest(
        output / "manifest.json",
        settings=settings.to_dict() | {"scorers": _texts(scorers)},
        code=fingerprint,
        outputs=[output / "scores.csv", *(sample.file for sample in samples)],
        weights=[*settings.weights, *filter(None, scorers.values()), *files],
        began=began,
        extra={"unet_passes": passes},
    )


def read_index(folder: Path) -> list[Sample]:
    """The images that folder/index.jsonl lists, one object a line: prompt_id, text, file."""
    path, samples = folder / "index.jsonl", []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): generate the images") from None
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            samples.append(Sample((row["prompt_id"],), row["text"], folder / row["file"]))
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{path}:{number}: not an object with prompt_id, text, file: generate again"
            ) from None
    if not samples:
        raise UserError(f"{path} lists no images: generate them again")
    return samples


@torch.no_grad()
def score(
    samples: Sequence[Sample],
    scorers: Mapping[str, str | Path | None],
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple]:
    """Rows (*key, metric, value) of every image and scorer; each scorer is loaded once, alone.

    Raises `UserError` for images that are missing, damaged or of several sizes.
    """
    device = _device()
    with ThreadPoolExecutor(4) as pool:  # reads on while the first scorer is loaded and at work
        images = [pool.submit(read_image, sample.file) for sample in samples]
        for name, weights in scorers.items():
            reward = load_reward(name, None if weights is None else Path(weights), device)
            measure = getattr(reward, "measure", reward.score)
            starts = range(0, len(samples), batch_size)
            for start in tqdm(starts, desc=name, unit="batch", disable=None):
                batch = samples[start : start + batch_size]
                read = [image.result() for image in images[start : start + batch_size]]
                _check_sizes(batch, read, samples[0], images[0].result())
                pixels = torch.stack(read).to(device).float() / 255
                scores = measure(pixels, [sample.text for sample in batch])
                for sample, value in zip(batch, scores.tolist(), strict=True):
                    yield (*sample.key, name, value)


def _check_sizes(
    batch: Sequence[Sample], images: Sequence[Tensor], first: Sample, image: Tensor
) -> None:
    for sample, other in zip(batch, images, strict=True):
        if other.shape != image.shape:
            raise UserError(
                f"{sample.file} differs in size from {first.file}: generate the images again"
            )


def write_scores(path: Path, keys: tuple[str, ...], rows: Iterable[tuple]) -> None:
    """Write rows (*keys, metric, value) as CSV, atomically; values keep float32's precision.

    Raises `UserError` for a value that is not a finite number.
    """
    rows = list(rows)
    for *key, metric, value in rows:
        if not math.isfinite(value):
            raise UserError(
                f"{path} is not written, because {metric} is {value} for {' '.join(key)}:"
                f" check the weights of {metric} and the image"
            )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*keys, "metric", "value"))
    writer.writerows((*row[:-1], f"{row[-1]:.9g}") for row in rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def read_image(path: Path) -> Tensor:
    """`(3, H, W)` uint8; raises `UserError` for a file that is missing or no image."""
    try:
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except (OSError, SyntaxError, ValueError):
        raise UserError(f"{path} is missing or is no image: generate it again") from None


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _texts(scorers: Mapping[str, str | Path | None]) -> dict[str, str | None]:
    return {name: None if path is None else str(path) for name, path in scorers.items()}


def _write_manifest(path: Path, *, began: float, **content) -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    write_manifest(path, device=device, seconds=time.perf_counter() - began, **content)
