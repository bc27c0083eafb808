"""Pearson χ² divergence E_q[(p/q - 1)²] = exp(d²) - 1; overflows float32 where d² > 88."""

import torch

FORMULA = r"e^{d^2} - 1"


def divergence(squared_distance: torch.Tensor, std: torch.Tensor | float) -> torch.Tensor:
    return torch.expm1(squared_distance)
