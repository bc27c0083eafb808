"""What a divergence is, and loading one by its name."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rocm_core.plugins import load, names, short_name

_PAPER = ("kl", "js", "hellinger", "fisher")  # the rest follows by name


@dataclass(frozen=True)
class Divergence:
    """`function(squared_distance, std)` maps d² (any shape) and σ (broadcast to it) to D(d²).

    It computes at least in float32; the result has the dtype of d².
    of_noise: the second argument is σ in units of the predicted noise (`Chain.noise_stds`).
    """

    name: str
    function: Callable[[Tensor, Tensor | float], Tensor]
    formula: str
    bound: float = math.inf
    of_noise: bool = False

    def __call__(self, squared_distance: Tensor, std: Tensor | float) -> Tensor:
        wide = torch.promote_types(squared_distance.dtype, torch.float32)
        std = std.to(wide) if isinstance(std, Tensor) else std
        return self.function(squared_distance.to(wide), std).to(squared_distance.dtype)


def load_divergence(name: str) -> Divergence:
    """The divergence `name`; raises `UserError` if there is none of that name."""
    module = load("divergences", name)
    bound, of_noise = getattr(module, "BOUND", math.inf), getattr(module, "OF_NOISE", False)
    name = short_name(module.__name__)
    return Divergence(name, module.divergence, module.FORMULA, bound, of_noise)


def by_formula() -> list[list[Divergence]]:
    """All divergences, the paper's first, grouped by formula: KL and its reverse share one."""
    order = [*_PAPER, *(name for name in names("divergences") if name not in _PAPER)]
    groups: dict[str, list[Divergence]] = {}
    for divergence in map(load_divergence, order):
        groups.setdefault(divergence.formula, []).append(divergence)
    return list(groups.values())
