"""What a scorer is, and loading one by its name."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rocm_core.plugins import load as load_module  # `load` marks a reward

if TYPE_CHECKING:
    import torch


class Reward(Protocol):
    """A scorer of images; ``differentiable``: gradients flow from the scores to the images.

    A scorer that changes during a training also has an attribute ``progress``, a float in [0, 1],
    which the trainer sets to (step - 1) / iterations before iteration ``step``, counted from 1. It
    is 1 on a scorer just loaded, so that a metric measures what a training ends with.
    One whose publication preprocesses in a way that has no gradient also has ``measure``, which is
    ``score`` in that way: images on the disk are measured by it.
    """

    name: str
    differentiable: bool

    def score(self, images: "torch.Tensor", prompts: Sequence[str]) -> "torch.Tensor":
        """Scores (N,) of images (N, 3, H, W) in [0, 1], each for its own prompt.

        The higher the better.
        """


def load_reward(
    name: str,
    weights: Path | None = None,
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
) -> Reward:
    """The scorer ``name`` with the weights in the folder ``weights`` (None: it needs none).

    ``dtype`` is the precision of its network, float32 by default. Raises :class:`UserError` for an
    unknown name and for weights that are absent, damaged or of another architecture.
    """
    module = load_module("rewards", name)
    return module.load(None if weights is None else Path(weights), device, dtype)
