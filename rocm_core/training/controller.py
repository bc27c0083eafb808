"""A controller of β that holds the divergence at a target.

    β ← β · (1 + 0.1 · clip(D / D_target - 1, ± 0.2))

after every iteration (Ziegler et al. 2019, section 2.2, whose gain and clip these are). A β of its
own size grows or falls by at most 2 % an iteration, so one that is off by a factor of 10 needs 115.
"""

import math

from rocm_core.configuration import BetaTarget
from rocm_core.divergences import Divergence
from rocm_core.errors import UserError

GAIN, LARGEST_ERROR = 0.1, 0.2
IMAGES = 16  # one image says little of D: the mean is over the last of about so many
REACH = 1e4  # β stays within this factor of where it started
SATURATED = 0.95  # of a divergence's bound: from there on its gradient is as good as gone


class BetaController:
    """`beta`, and the running mean of the divergence that it answers to."""

    def __init__(self, settings: BetaTarget) -> None:
        self.settings, self.beta = settings, settings.start
        self.sum, self.weight = 0.0, 0.0

    def require_reachable(self, divergence: Divergence, steps: float) -> None:
        """Refuse a target that a divergence, summed over `steps` steps, never reaches."""
        most = SATURATED * divergence.bound * steps
        if self.settings.target > most:
            raise UserError(
                f"beta.target is {self.settings.target:g}, but divergence {divergence.name} over"
                f" {steps:g} steps has saturated at {most:.3g}: lower the target"
            )

    def update(self, divergence: float, images: int) -> float:
        """β for the next iteration, after one whose mean divergence was that of `images` images."""
        kept = math.exp(-images / IMAGES)
        self.sum = kept * self.sum + (1 - kept) * divergence
        self.weight = kept * self.weight + 1 - kept  # 1 in the end; less while there are few
        error = self.sum / self.weight / self.settings.target - 1
        beta = self.beta * (1 + GAIN * min(max(error, -LARGEST_ERROR), LARGEST_ERROR))
        start = self.settings.start
        self.beta = min(max(beta, start / REACH), start * REACH)
        return self.beta

    def state_dict(self) -> dict[str, float]:
        """What an exact resume needs."""
        return {"beta": self.beta, "sum": self.sum, "weight": self.weight}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take back what `state_dict` gave."""
        self.beta, self.sum, self.weight = state["beta"], state["sum"], state["weight"]
