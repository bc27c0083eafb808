"""Total variation ½∫|p - q| = erf(d/(2√2)).

It grows with d, not d²: as a function of the means it has a cusp at d = 0, where 0 is taken from
its subdifferential. The gradient is exact everywhere else.
"""

import math

import torch

FORMULA = r"\operatorname{erf}\left(d/(2\sqrt{2})\right)"
BOUND = 1.0


def divergence(squared_distance: torch.Tensor, std: torch.Tensor | float) -> torch.Tensor:
    apart = squared_distance > 0
    distance = torch.where(
        apart, squared_distance, 1
    ).sqrt()  # keeps √'s infinite slope out of the graph
    return torch.where(apart, torch.erf(distance / (2 * math.sqrt(2))), 0)
