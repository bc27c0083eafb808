"""Squared Hellinger distance ½∫(√p - √q)² = 1 - exp(-d²/8); saturates, as does its slope."""

import torch

FORMULA = r"1 - e^{-d^2/8}"
BOUND = 1.0


def divergence(squared_distance: torch.Tensor, std: torch.Tensor | float) -> torch.Tensor:
    return -torch.expm1(-squared_distance / 8)
