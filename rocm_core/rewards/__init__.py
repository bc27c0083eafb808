"""Scorers, one module each: how well images show their prompts, or how good they look.

``hpsv2``, ``pickscore``, ``clipscore``, ``aesthetic``, ``blipscore`` and ``imagereward`` are the
field's learned scorers, ``hpsv2_0`` and ``clipscore_hessel`` other versions of two of them;
``gold`` is the judge of the shapes world. RLCM trains on ``aesthetic``,
``jpeg_compressibility``, ``jpeg_incompressibility`` and ``alignment``, which is called
``shapes_alignment`` in the shapes world; ``sparse_redness``, ``hinge_redness`` and ``drifting_hue``
are for the questions it leaves open. A module ``rewards/<name>.py`` with a function
``load(weights, device, dtype) -> Reward`` is a scorer; a config names it, with - or _.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rocm_core.errors import UserError

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
    path = f"{__name__}.{name.replace('-', '_')}"
    try:
        load = importlib.import_module(path).load
    except (ModuleNotFoundError, AttributeError) as error:
        if error.name not in (path, "load"):
            raise
        raise UserError(
            f"there is no scorer {name!r}; write rocm_core/rewards/{name.replace('-', '_')}.py"
            " with a function load, or correct the name"
        ) from None
    return load(None if weights is None else Path(weights), device, dtype)
