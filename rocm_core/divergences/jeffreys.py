"""Jeffreys divergence KL(p‖q) + KL(q‖p) = d²."""

from torch import Tensor

FORMULA = r"d^2"


def divergence(squared_distance: Tensor, std: Tensor | float) -> Tensor:
    return squared_distance
