"""What a scorer is, and loading one by its name."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rocm_core.plugins import (
    load as load_module,  # `load` marks a reward
    short_name,
)
from rocm_core.provenance import located
from rocm_core.weights import require_finite

if TYPE_CHECKING:
    import torch


class Reward(Protocol):
    """A scorer of images; inheriting from it gives its defaults.

    name: its module's. differentiable: gradients flow from the scores to the images, the module's
    fact DIFFERENTIABLE. `load_reward` sets both. progress: of the training, a float in [0, 1], for
    a scorer that changes during one; the trainer sets it to (step - 1) / iterations before
    iteration ``step``, counted from 1. It is 1 on a scorer just loaded, so that a metric measures
    what a training ends with.
    """

    name: str = ""
    differentiable: bool = False
    progress: float = 1.0

    def score(self, images: "torch.Tensor", prompts: Sequence[str]) -> "torch.Tensor":
        """Scores (N,) of images (N, 3, H, W) in [0, 1], each for its own prompt.

        The higher the better.
        """
        raise NotImplementedError

    def measure(self, images: "torch.Tensor", prompts: Sequence[str]) -> "torch.Tensor":
        """``score`` of images on the disk; it is another function where the publication
        preprocesses in a way that has no gradient."""
        return self.score(images, prompts)


def load_reward(
    name: str,
    weights: str | Path | None = None,
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
) -> Reward:
    """The scorer ``name`` with the weights in the folder or file ``weights`` (None: it needs none).

    ``dtype`` is the precision of its network, float32 by default. Its name is
    its module's, and whether it is differentiable is what its module declares. A scorer that does
    not inherit from :class:`Reward` and has no ``measure`` is measured by its ``score``. Raises
    :class:`UserError` for an unknown name and for weights that are absent, damaged, of another
    architecture or not finite.
    """
    folder = None if weights is None else located(weights)
    module = load_module("rewards", name)
    scorer = module.load(folder, device, dtype)
    if hasattr(scorer, "state_dict"):
        require_finite(folder or name, scorer.state_dict())
    scorer.name, scorer.differentiable = short_name(module.__name__), module.DIFFERENTIABLE
    if not hasattr(scorer, "measure"):
        scorer.measure = scorer.score
    return scorer
