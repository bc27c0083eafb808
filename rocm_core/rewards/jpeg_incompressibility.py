"""JPEG incompressibility: the size of the image's file (Black et al. 2023, arXiv 2305.13301).

In kB of 1000 bytes, at quality 95, as DDPO and RLCM measure it; the prompt plays no part.
"""

import io
from collections.abc import Sequence

import torch

from rocm_core.rewards._weightless import Weightless
from rocm_core.rewards.preprocessing import pictures_of

DIFFERENTIABLE = False
JUDGES = False

QUALITY = 95


class JpegIncompressibility(Weightless):
    """The kB of the image's JPEG file."""

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Scores (N,) of images (N, 3, H, W) in [0, 1]."""
        return kilobytes(images)


def kilobytes(images: torch.Tensor) -> torch.Tensor:
    """(N,) size in units of 1000 bytes of images (N, 3, H, W) in [0, 1] as files of 8-bit RGB."""
    sizes = []
    for picture in pictures_of(images):
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=QUALITY)
        sizes.append(file.tell() / 1000)
    return torch.tensor(sizes, dtype=torch.float32, device=images.device)


load = JpegIncompressibility.load
