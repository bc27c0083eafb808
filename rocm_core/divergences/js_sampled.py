"""Jensen–Shannon divergence as the paper estimates it (§3, equation 11): one random draw per step.

A draw of the transition enters only through its projection on μ - μ_ref, so one standard normal
number is enough. Value and gradient are unbiased. Draws come from torch's default generator, which
the trainer seeds at every step. An estimate can be negative; `js` is exact and has no variance.
"""

import torch
from torch.nn.functional import softplus

from rocm_core.divergences.js import BOUND, FORMULA, SATURATED, with_slope

__all__ = ["BOUND", "FORMULA", "divergence"]


def divergence(squared_distance: torch.Tensor, std: torch.Tensor | float) -> torch.Tensor:
    squared_distance = squared_distance.clamp(max=SATURATED)
    with torch.no_grad():
        z = torch.randn_like(squared_distance)
        log_ratio = squared_distance.sqrt() * z - squared_distance / 2  # log(q/p) at a draw of p
        value, slope = BOUND - softplus(log_ratio), torch.sigmoid(log_ratio) ** 2 / 2
    return with_slope(squared_distance, value, slope)
