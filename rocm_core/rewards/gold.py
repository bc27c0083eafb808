"""The gold judge of the shapes world as a scorer: the known truth that the others approximate."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rocm_core.errors import UserError
from rocm_core.shapes.judge import judge

DIFFERENTIABLE = False


class Gold:
    """:func:`rocm_core.shapes.judge.judge`: (0, 1], 1 is perfect; not differentiable."""

    name = "gold"
    differentiable = DIFFERENTIABLE

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,) of images (N, 3, 32, 32) in [0, 1], each for its own caption."""
        return judge(images.detach().float().cpu(), list(prompts)).to(images.device)


def load(weights: Path | None, device: str | torch.device, dtype: torch.dtype | None) -> Gold:
    if weights is not None:
        raise UserError("the scorer gold needs no weights; set scorers.gold to null")
    return Gold()
