"""Divergences between a transition of the policy and of the reference, as functions of one number.

Both are Gaussians of the same covariance, p = N(μ, σ²I) and q = N(μ_ref, σ²I). Rotating the axes
onto μ - μ_ref makes the problem one-dimensional: every f-divergence depends on
d² = |μ - μ_ref|²/σ² alone.

A module of this package is one divergence. It has
    divergence(squared_distance, std) -> Tensor     D(d²) elementwise, ≥ 0, D(0) = 0, gradient in d²
    FORMULA                                         LaTeX, for tables and figures
    BOUND                                           its supremum, if it has one
`none` is no module: it means training without a divergence.
"""

import importlib
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from rocm_core.errors import UserError


@dataclass(frozen=True)
class Divergence:
    """`function(squared_distance, std)` maps d² (any shape) and σ (broadcast to it) to D(d²)."""

    name: str
    function: Callable[[Tensor, Tensor | float], Tensor]
    formula: str
    bound: float = math.inf

    def __call__(self, squared_distance: Tensor, std: Tensor | float) -> Tensor:
        return self.function(squared_distance, std)


def names() -> list[str]:
    """All divergences that there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_divergence(name: str) -> Divergence:
    """The divergence of module `rocm_core.divergences.<name>`, `-` read as `_`."""
    module_name = name.replace("-", "_")
    if module_name not in names():
        raise UserError(
            f"there is no divergence {name!r}: choose none or one of {', '.join(names())}"
        )
    module = importlib.import_module(f"{__name__}.{module_name}")
    bound = getattr(module, "BOUND", math.inf)
    return Divergence(module_name, module.divergence, module.FORMULA, bound)
