"""A sparse reward: 1 for an image that is red enough, 0 for all others.

Whether sparse rewards can be learned is one of the questions that RLCM leaves open. A step has no
gradient, so only policy-gradient methods can try; ``hinge_redness`` is its counterpart for methods
that differentiate the reward. Of 1,280 images of the shapes world's consistency base (160 training
captions, 8 images each) 5 % earn it: of the captions 84 % never, 16 % sometimes, 1 % always.
"""

from collections.abc import Sequence

from torch import Tensor

from rocm_core.rewards._weightless import Weightless, hue

DIFFERENTIABLE = False
JUDGES = False

THRESHOLD = 0.1


class SparseRedness(Weightless):
    """1 where the mean of R - (G + B) / 2 exceeds :data:`THRESHOLD`, else 0."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,) of images (N, 3, H, W) in [0, 1]."""
        return (hue(images.detach(), degrees=0) > THRESHOLD).float()


load = SparseRedness.load
