"""JPEG incompressibility: the size of the image's file (Black et al. 2023, arXiv 2305.13301).

In kB of 1000 bytes, at quality 95, as DDPO and RLCM measure it; the prompt plays no part.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rocm_core.rewards._jpeg import kilobytes
from rocm_core.rewards._weightless import refuse_weights

DIFFERENTIABLE = False


class JpegIncompressibility:
    """The kB of the image's JPEG file."""

    name = "jpeg_incompressibility"
    differentiable = DIFFERENTIABLE

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,) of images (N, 3, H, W) in [0, 1]."""
        return kilobytes(images)


def load(
    weights: Path | None, device: str | torch.device, dtype: torch.dtype | None
) -> JpegIncompressibility:
    refuse_weights(weights, "jpeg-incompressibility")
    return JpegIncompressibility()
