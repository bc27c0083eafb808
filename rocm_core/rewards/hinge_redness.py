"""``sparse_redness`` with a slope above its threshold, which makes it differentiable there.

Below the threshold, where nearly all images of a base model are, score and gradient are 0.
"""

from collections.abc import Sequence

from torch import Tensor

from rocm_core.rewards._weightless import Weightless, hue
from rocm_core.rewards.sparse_redness import THRESHOLD

DIFFERENTIABLE = True
JUDGES = False


class HingeRedness(Weightless):
    """max(0, redness - threshold) / (1 - threshold), in [0, 1]; an entirely red image scores 1."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,) of images (N, 3, H, W) in [0, 1]."""
        return (hue(images, degrees=0) - THRESHOLD).relu() / (1 - THRESHOLD)


load = HingeRedness.load
