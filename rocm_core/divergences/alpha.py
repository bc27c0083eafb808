"""α-divergence (1 - ∫ p^α q^(1-α)) / (α(1-α)) = (1 - exp(-α(1-α)d²/2)) / (α(1-α)).

α → 1 is KL and α = ½ four times squared Hellinger. The default lies near KL but is bounded.
"""

import torch
from torch import Tensor

ALPHA = 0.9
FORMULA = r"\frac{1 - e^{-\alpha(1-\alpha)d^2/2}}{\alpha(1-\alpha)},\ \alpha = 0.9"
BOUND = 1 / (ALPHA * (1 - ALPHA))


def divergence(squared_distance: Tensor, std: Tensor | float, alpha: float = ALPHA) -> Tensor:
    weight = alpha * (1 - alpha)
    return -torch.expm1(-weight * squared_distance / 2) / weight
