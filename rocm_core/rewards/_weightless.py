"""What the scorers without weights share."""

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
