"""What the scorers without weights share: loading, and the average amount of a hue in an image."""

import math
from pathlib import Path
from typing import Self

import torch

from rocm_core.errors import UserError
from rocm_core.plugins import short_name
from rocm_core.rewards.loading import Reward


class Weightless(Reward):
    """A scorer without weights, in a module of its name."""

    @classmethod
    def load(
        cls, weights: Path | None, device: str | torch.device, dtype: torch.dtype | None
    ) -> Self:
        """The scorer; raises :class:`UserError` if the configuration gives it weights."""
        if weights is not None:
            scorer = short_name(cls.__module__).replace("_", "-")
            raise UserError(f"the scorer {scorer} needs no weights; set scorers.{scorer} to null")
        return cls()


def hue(images: torch.Tensor, degrees: float) -> torch.Tensor:
    """(N,) mean component along a hue, in [-1, 1], of images (N, 3, H, W) in [0, 1].

    0° is red, 120° green, 240° blue; of grey there is none. Along red this is R - (G + B) / 2: the
    pixel's opponent colours (R - (G + B) / 2, √3/2 (G - B)) are projected on the hue's direction.
    """
    wide = torch.promote_types(images.dtype, torch.float32)
    red, green, blue = images.mean((2, 3), dtype=wide).unbind(1)
    angle = math.radians(degrees)
    along, across = red - (green + blue) / 2, math.sqrt(3) / 2 * (green - blue)
    return math.cos(angle) * along + math.sin(angle) * across
