"""Squared difference of the predicted noise, |ε - ε_ref|² = d² s²: what DPOK's release calls KL.

s is σ in units of that noise, guidance included: a step's mean moves by σ when ε moves by s. All
steps weigh alike, where d²/2 puts most of its weight on the last ones. It is no divergence of the
two transitions, and needs a chain whose means follow the predicted noise along a line.
"""

from torch import Tensor

FORMULA = r"d^2 s^2"
OF_NOISE = True


def divergence(squared_distance: Tensor, std: Tensor | float) -> Tensor:
    return squared_distance * std**2
