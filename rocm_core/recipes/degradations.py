"""Images of mixed quality: what the shapes world's models learn from, as others do from the web.

A quarter of the renderings stay perfect. Each of the others loses contrast, is blurred (which
softens its edges), gets blotches of noise and a cast of colour, all of random strength within
the ranges below. Captions say nothing about it. The judge knows perfect renderings only, so
likelihood cannot teach a model all that the judge wants, and RLHF has something to win. The noise
is that of compressed photographs, some pixels wide: an autoencoder would drop noise of single
pixels, and the models behind it would never see it.

The ranges were fixed before any training on rewards.
"""

import torch
from torch import Tensor, nn

from rocm_core.shapes.scenes import SIZE, Scenes, render

PERFECT_SHARE = 0.25
CONTRAST = (0.6, 1.0)  # factor of the distance to the image's mean
BLUR = (0.0, 1.0)  # standard deviation in pixels
NOISE = (0.0, 0.04)  # standard deviation, of each colour
NOISE_GRID = 8  # values per side, four pixels apart
CAST = (-0.05, 0.05)  # added to each of red, green and blue


def render_mixed(scenes: Scenes, generator: torch.Generator) -> Tensor:
    """Images (N, 3, 32, 32) in [0, 1] of scenes, of mixed quality."""
    images = render(scenes, generator)
    perfect = torch.rand(len(images), 1, 1, 1, generator=generator) < PERFECT_SHARE
    return torch.where(perfect, images, degrade(images, generator))


def degrade(images: Tensor, generator: torch.Generator) -> Tensor:
    """Every image (N, 3, 32, 32) with all degradations, each of random strength."""
    n = len(images)

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(n, channels, 1, 1, generator=generator)

    mean = images.mean((1, 2, 3), keepdim=True)
    faded = mean + uniform(*CONTRAST) * (blur(images, uniform(*BLUR)) - mean)
    coarse = torch.randn(n, 3, NOISE_GRID, NOISE_GRID, generator=generator)
    noise = nn.functional.interpolate(coarse, size=SIZE, mode="bicubic")
    return (faded + uniform(*CAST, channels=3) + uniform(*NOISE) * noise).clamp(0, 1)


def blur(images: Tensor, deviation: Tensor) -> Tensor:
    """Images (N, C, 32, 32) under Gaussians of standard deviations (N, 1, 1, 1) in pixels."""
    pixels = torch.arange(float(SIZE))
    squares = (pixels - pixels[:, None]) ** 2
    kernel = (-squares / (2 * deviation.clamp_min(0.05) ** 2)).softmax(-1)
    return kernel @ images @ kernel.mT
