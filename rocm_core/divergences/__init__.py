"""Divergences between a transition of the policy and of the reference, as functions of one number.

Both are Gaussians of the same covariance, p = N(μ, σ²I) and q = N(μ_ref, σ²I). Rotating the axes
onto μ - μ_ref makes the problem one-dimensional: every f-divergence depends on
d² = |μ - μ_ref|²/σ² alone.

A module of this package is one divergence. It has
    divergence(squared_distance, std) -> Tensor     D(d²) elementwise, ≥ 0, D(0) = 0, gradient in d²
    FORMULA                                         LaTeX, for tables and figures
    BOUND                                           its supremum, if it has one
`none` is not a module: it means training without a divergence.
"""

from rocm_core.divergences.loading import Divergence, by_formula, load_divergence
