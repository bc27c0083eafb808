"""JPEG compressibility: minus the size of the image's file (Black et al. 2023, arXiv 2305.13301).

In kB of 1000 bytes, at quality 95, as DDPO and RLCM measure it; the prompt plays no part.
"""

from collections.abc import Sequence

from torch import Tensor

from rocm_core.rewards._weightless import Weightless
from rocm_core.rewards.jpeg_incompressibility import kilobytes

DIFFERENTIABLE = False
JUDGES = False


class JpegCompressibility(Weightless):
    """Minus the kB of the image's JPEG file."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,) of images (N, 3, H, W) in [0, 1]."""
        return -kilobytes(images)


load = JpegCompressibility.load
