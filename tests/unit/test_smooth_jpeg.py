"""The differentiable JPEG, against the encoder itself, over images of the embedded world and over
photographs.

What the encoder writes of an image are headers, always as long; the codes of its numbers; and a
zero after each of these bytes that is all ones (ITU-T T.81, B.1.1.5), which is a matter of chance.
The estimate is of the codes, so it is compared with these, and beside them with the whole file.
"""

import importlib.util
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from rocm_core.rewards import load_reward
from rocm_core.rewards.preprocessing import pictures_of
from rocm_core.rewards.smooth_jpeg_compressibility import estimated_kilobytes
from rocm_core.shapes.scenes import parse, render, sample_captions

CAPTIONS = sample_captions(10, 0)
# Those in colour that come with scikit-image.
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def coded_bytes(images):
    """What the encoder writes of each image, without headers and stuffed zeros."""
    sizes = []
    for picture in pictures_of(images):
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=95)
        data = file.getvalue()
        start = data.index(b"\xff\xda")
        scan = data[start + 2 + int.from_bytes(data[start + 2 : start + 4]) : -2]
        sizes.append(len(scan.replace(b"\xff\x00", b"\xff")))
    return np.array(sizes)


def rank_correlation(first, second):
    return np.corrcoef(pd.Series(first).rank(), pd.Series(second).rank())[0, 1]


def sizes(images):
    """Bytes of each image: estimated, of the encoder's codes, and of its file."""
    files = -load_reward("jpeg-compressibility").score(images, [""] * len(images)).numpy()
    return estimated_kilobytes(images).numpy() * 1000, coded_bytes(images), files * 1000


def test_the_images_of_a_prompt_have_the_encoders_order():
    """50 scenes of each of 10 captions, 500 in all. The codes of a caption's scenes differ by a few
    per cent, so that the zeros stuffed into files of less than a kilobyte cost them some order."""
    with_codes, with_files = [], []
    for seed, caption in enumerate(CAPTIONS):
        ours, codes, files = sizes(render(parse([caption] * 50), seed))
        with_codes.append(rank_correlation(ours, codes))
        with_files.append(rank_correlation(ours, files))
        assert np.abs(codes - ours).max() < 0.03 * codes.mean()
    print("rank correlations:", np.round(with_codes, 3), "with files:", np.round(with_files, 3))
    assert min(with_codes) > 0.95
    assert min(with_files) > 0.9 and np.mean(with_files) > 0.95


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_crops_of_a_photograph_have_the_encoders_order(name, size):
    """50 crops of each, anywhere in it."""
    package = importlib.util.find_spec("skimage")
    assert package and package.origin, "scikit-image is missing: run `make test`"
    picture = np.array(Image.open(Path(package.origin).parent / "data" / name).convert("RGB"))
    generator = np.random.default_rng(0)
    rows, columns = (generator.integers(0, side - size, 50) for side in picture.shape[:2])
    places = zip(rows, columns, strict=True)
    crops = np.stack([picture[row : row + size, column : column + size] for row, column in places])
    ours, codes, files = sizes(torch.from_numpy(crops).permute(0, 3, 1, 2) / 255)
    found = [rank_correlation(ours, theirs) for theirs in (codes, files)]
    print(f"rank correlations of {name} at {size}: {found[0]:.4f}, with files: {found[1]:.4f}")
    assert min(found) > 0.95


@pytest.mark.parametrize("size", [(16, 16), (32, 80)])
def test_estimates_are_the_encoders_bytes(size):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(6, 3, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    images = torch.cat([images, torch.rand(2, 3, *size, generator=generator)])
    ours, theirs = estimated_kilobytes(images).numpy() * 1000, coded_bytes(images)
    assert np.abs(theirs - ours).max() < 0.03 * theirs.max()


def test_what_is_not_a_whole_number_of_blocks_is_padded():
    image = render(parse(CAPTIONS[:1]), 0)[:, :, :20, :30]
    assert 0.9 < float(estimated_kilobytes(image)) * 1000 / float(coded_bytes(image)[0]) < 1.4


@pytest.mark.parametrize("sign", [1, -1])
def test_the_gradient_leads_to_smaller_real_files_and_its_opposite_to_larger(sign):
    """Ten steps of at most a level of 8 bits, from scenes with the noise of a camera."""
    reward = load_reward("smooth-jpeg-compressibility")
    start = render(parse(CAPTIONS * 3), 1)
    start = start + 0.04 * torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
    images = start.clamp(0, 1)
    for _ in range(10):
        images.requires_grad_()
        (gradient,) = torch.autograd.grad(reward.score(images, [""] * len(images)).sum(), images)
        assert gradient.isfinite().all()
        step = gradient / gradient.flatten(1).abs().amax(1)[:, None, None, None] / 255
        images = (images + sign * step).detach().clamp(0, 1)
    change = coded_bytes(start) - coded_bytes(images)
    assert (sign * change > 0).all() and np.abs(change).mean() > 0.02 * coded_bytes(start).mean()


def test_on_the_disk_the_encoder_measures():
    images = render(parse(CAPTIONS[:3]), 2)
    reward, real = (load_reward(f"{kind}jpeg-compressibility") for kind in ("smooth-", ""))
    assert reward.differentiable and not real.differentiable
    assert torch.equal(reward.measure(images, [""] * 3), real.score(images, [""] * 3))
    assert reward.score(images.double(), [""] * 3).dtype == torch.float64
    half = reward.score(images.bfloat16(), [""] * 3)
    assert half.dtype == torch.float32 and half.isfinite().all()
