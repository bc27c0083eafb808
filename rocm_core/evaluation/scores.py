"""Scores of images on the disk, by one scorer after the other, in long form: one number per row."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from rocm_core.errors import UserError
from rocm_core.evaluation.job import kept, pick_device, plain_paths, write_job_manifest
from rocm_core.provenance import hash_inputs, record_beside, write_csv
from rocm_core.rewards import load_reward

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
    written after the scores; scores that this job would make again are left as they are. Raises
    `UserError` for an image or index that is missing, damaged or not the one that its manifest
    lists, for a scorer that is missing or damaged, and for a score that is not a finite number;
    `output` is then left as it was.
    """
    write_rows(
        *(samples, output, fingerprint),
        {"scorers": plain_paths(scorers), "batch_size": batch_size},
        [path for path in scorers.values() if path],
        lambda listed: score(listed, scorers, batch_size),
    )


def write_rows(
    samples: Path,
    output: Path,
    fingerprint: str,
    settings: Mapping[str, Any],
    weights: Sequence[str | Path],
    rows_of: Callable[[list[Sample]], Iterable[tuple]],
) -> None:
    """Write rows (prompt_id, metric, value) of the images that samples/index.jsonl lists, and their
    manifest beside them; what this job would make again is left as it is."""
    began, record = time.perf_counter(), record_beside(output)
    listed = read_index(samples)
    made: dict[str, Any] = dict(
        settings=settings,
        code=fingerprint,
        weights=weights,
        inputs=hash_inputs(files_of(samples, listed)),
    )
    if not kept(record, **made):
        write_scores(output, ("prompt_id",), rows_of(listed))
        write_job_manifest(record, **made, outputs=[output], began=began)


def files_of(folder: Path, samples: Sequence[Sample]) -> list[Path]:
    """The files that scores of a folder's images are made from: its index and the images."""
    return [folder / "index.jsonl", *(sample.file for sample in samples)]


def read_index(folder: Path) -> list[Sample]:
    """The images that folder/index.jsonl lists, one object per line: prompt_id, text, file."""
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
    device = pick_device()
    with ThreadPoolExecutor(4) as pool:  # reads on while the first scorer is loaded and at work
        images = [pool.submit(read_image, sample.file) for sample in samples]
        for name, weights in scorers.items():
            reward = load_reward(name, None if weights is None else Path(weights), device)
            starts = range(0, len(samples), batch_size)
            for start in tqdm(starts, desc=name, unit="batch", disable=None):
                batch = samples[start : start + batch_size]
                read = [image.result() for image in images[start : start + batch_size]]
                for sample, image in zip(batch, read, strict=True):
                    if image.shape != images[0].result().shape:
                        raise UserError(
                            f"{sample.file} differs in size from {samples[0].file}:"
                            " generate the images again"
                        )
                pixels = torch.stack(read).to(device).float() / 255
                scores = reward.measure(pixels, [sample.text for sample in batch])
                for sample, value in zip(batch, scores.tolist(), strict=True):
                    yield (*sample.key, name, value)


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
    write_csv(path, (*keys, "metric", "value"), ((*row[:-1], f"{row[-1]:.9g}") for row in rows))


def read_image(path: Path) -> torch.Tensor:
    """`(3, H, W)` uint8; raises `UserError` for a file that is missing or not an image."""
    try:
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except (OSError, SyntaxError, ValueError):
        raise UserError(f"{path} is missing or is not an image: generate it again") from None
