"""KL(q‖p): the same function as KL(p‖q), because the two covariances are equal."""

from rocm_core.divergences.kl import FORMULA, divergence

__all__ = ["FORMULA", "divergence"]

ALIAS_OF = "kl"
