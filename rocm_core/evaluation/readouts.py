"""What shows reward hacking first in the images themselves, one number per image.

high_frequency   share of the brightness's energy at spatial frequencies above half of what the
                 pixels can hold (0.25 cycles per pixel), the mean left out, under a Hann window:
                 noise and grain raise it
pixel_diversity  mean distance to the images of the other prompts: root mean square of pixels in
                 [0, 1] averaged down to 16 × 16, so that noise does not count as diversity
clip_diversity   the same with 1 - cosine of CLIPScore's image features, where it is a scorer

A model that draws one picture whatever the prompt has a diversity of 0. Both are of all images, one
per prompt, so they include what prompts ask for: compare models on the same prompts.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from rocm_core.errors import UserError
from rocm_core.evaluation.job import pick_device
from rocm_core.evaluation.scores import (
    BATCH_SIZE,
    Sample,
    read_image,
    write_rows,
)
from rocm_core.provenance import located

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_CUT = 0.25  # cycles per pixel
_COARSE = 16  # pixels


def measure_folder(samples: Path, output: Path, clip: str | Path | None, fingerprint: str) -> None:
    """Measure the images that samples/index.jsonl lists; write prompt_id, metric, value to `output`
    and its manifest beside it; read-outs that this job would make again are left as they are.

    clip: weights of the scorer clipscore; None leaves its read-out out. Raises `UserError` as
    `score_folder` does.
    """
    settings = {"clip": None if clip is None else str(clip)}
    weights = [] if clip is None else [clip]
    write_rows(
        samples, output, fingerprint, settings, weights, lambda listed: _measured(listed, clip)
    )


@torch.no_grad()
def _measured(listed: list[Sample], clip: str | Path | None) -> Iterator[tuple]:
    """Rows of the read-outs of images."""
    # Not above: the environment of the published scorers, which reads this room, cannot import it.
    from rocm_core.rewards import clipscore

    device = pick_device()
    energies, coarse, features = [], [], []
    encoder = None if clip is None else clipscore.load(located(clip), device, None)
    for batch in _batches(listed):
        images = batch.to(device)
        energies.append(high_frequency(images))
        coarse.append(nn.functional.adaptive_avg_pool2d(images, _COARSE).flatten(1))
        if encoder is not None:
            features.append(encoder.encode_images(encoder.preprocessing(images)))
    readouts = {
        "high_frequency": torch.cat(energies),
        "pixel_diversity": pixel_diversity(torch.cat(coarse)),
    }
    if features:
        readouts["clip_diversity"] = feature_diversity(torch.cat(features))
    for name, values in readouts.items():
        for sample, value in zip(listed, values.tolist(), strict=True):
            yield (*sample.key, name, value)


def high_frequency(images: Tensor) -> Tensor:
    """Share in [0, 1] (N,) of images (N, 3, H, W); 0 for an image of one colour."""
    height, width = images.shape[-2:]
    luma = torch.einsum("nchw,c->nhw", images.double(), images.new_tensor(_LUMA).double())
    sides = (torch.hann_window(n, periodic=False).double() for n in (height, width))
    window = torch.outer(*sides).to(images.device)
    flat = luma - (luma * window).sum((1, 2), keepdim=True) / window.sum()
    power = torch.fft.fft2(flat * window).abs() ** 2
    y, x = (torch.fft.fftfreq(n, device=images.device) for n in (height, width))
    fine = torch.hypot(y[:, None], x[None]) > _CUT
    total = power.sum((1, 2))
    # Rounding leaves a few 1e-32 of an image of one colour.
    share = power[:, fine].sum(1) / total.clamp_min(1e-20)
    return torch.where(total > 1e-20, share, 0.0)


def pixel_diversity(pixels: Tensor) -> Tensor:
    """Mean root-mean-square distance (N,) of each of pixels (N, D) to the others."""
    distances = torch.cdist(pixels.double(), pixels.double()) / pixels.shape[1] ** 0.5
    return distances.sum(1) / max(1, len(pixels) - 1)


def feature_diversity(features: Tensor) -> Tensor:
    """Mean of 1 - cosine (N,) of each of features (N, D) to the others."""
    unit = nn.functional.normalize(features.double(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(1.0)
    return (1 - cosines).sum(1) / max(1, len(unit) - 1)


def _batches(samples: list[Sample]) -> Iterator[Tensor]:
    """Images (≤ BATCH_SIZE, 3, H, W) in [0, 1]."""
    for start in range(0, len(samples), BATCH_SIZE):
        images = [read_image(sample.file) for sample in samples[start : start + BATCH_SIZE]]
        if len({image.shape for image in images}) > 1:
            raise UserError(f"{samples[0].file.parent} holds images of several sizes: remake them")
        yield torch.stack(images).float() / 255
