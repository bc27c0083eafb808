"""Fisher divergence E_p|∇log p - ∇log q|² = |μ - μ_ref|²/σ⁴ = d²/σ²; not an f-divergence."""

from torch import Tensor

FORMULA = r"d^2/\sigma^2"


def divergence(squared_distance: Tensor, std: Tensor | float) -> Tensor:
    return squared_distance / std**2
