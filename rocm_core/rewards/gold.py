"""The gold judge of the shapes world as a scorer: the known truth that the others approximate."""

from collections.abc import Sequence

from torch import Tensor

from rocm_core.rewards._shapes import looked_at
from rocm_core.rewards._weightless import Weightless
from rocm_core.shapes.judge import judge

DIFFERENTIABLE = False


class Gold(Weightless):
    """:func:`rocm_core.shapes.judge.judge`: (0, 1], 1 is perfect; not differentiable."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,) of images (N, 3, H, W) in [0, 1], each for its own caption.

        Raises :class:`UserError` for a caption of another world.
        """
        return judge(looked_at(images), list(prompts)).to(images.device)


load = Gold.load
