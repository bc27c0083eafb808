"""Squared Hellinger distance ½∫(√p - √q)² = 1 - exp(-d²/8); saturates, as does its slope."""

import torch
from torch import Tensor

FORMULA = r"1 - e^{-d^2/8}"
BOUND = 1.0


def divergence(squared_distance: Tensor, std: Tensor | float) -> Tensor:
    return -torch.expm1(-squared_distance / 8)
