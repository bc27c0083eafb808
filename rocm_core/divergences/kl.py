"""Kullback–Leibler divergence KL(p‖q) = d²/2."""

from torch import Tensor

FORMULA = r"d^2/2"


def divergence(squared_distance: Tensor, std: Tensor | float) -> Tensor:
    return squared_distance / 2
