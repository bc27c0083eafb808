"""Table 3: the divergences that the code offers, generated from their modules."""

import math
import re

import pandas as pd
import torch

from rocm_core.analysis import Results, divergence_label
from rocm_core.divergences import by_formula
from rocm_core.tables._table import Block, Cell, Table

TITLE = "Divergences between two Gaussians of equal covariance"
NEEDS = ("regularised rocm",)
READS = ()
PLACE = 3
DISTANCES = (0.1, 1.0, 3.0, 8.0)
COLUMNS = ["divergence", "formula", "bound", "distance", "value"]
# LaTeX of the formulas as plain text; the order matters.
_PLAIN = (
    (r"\\(?:left|right|mathbb|operatorname)\b", ""),
    (r"\\ ", " "),
    (r"\\sqrt\{(\w+)\}", r"√\1"),
    (r"\\alpha", "α"),
    (r"\\sigma", "σ"),
    (r"\\", ""),
    (r"\^2", "²"),
    (r"\^\{([^{}]*)\}", r"^(\1)"),
    (r"frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2)"),
    (r"[{}]", ""),
    ("-", "−"),
)


def make(results: Results) -> Table:
    """One row per formula, named after all modules that have it, with its values at `DISTANCES`.

    `data` has `COLUMNS`, one row per divergence and distance; nothing of `results` is needed.
    """
    block, data = Block("D as a function of d² = ‖μ − μ_ref‖²/σ²"), []
    for alike in by_formula():
        first = alike[0]
        squares = torch.tensor(DISTANCES, dtype=torch.double).square()
        values = first(squares, 1.0).tolist()
        bound = "none" if math.isinf(first.bound) else f"{first.bound:.4g}"
        block.rows.append(
            [
                Cell(", ".join(divergence_label(one.name) for one in alike)),
                Cell(plain(first.formula), math=first.formula),
                Cell(bound),
                *(Cell(f"{value:.3g}") for value in values),
            ]
        )
        data += [
            dict(zip(COLUMNS, [one.name, one.formula, one.bound, *pair], strict=True))
            for one in alike
            for pair in zip(DISTANCES, values, strict=True)
        ]
    header = ["Divergence", "D", "Bound", *(f"d = {distance:g}" for distance in DISTANCES)]
    caption = (
        "Divergences of a transition of the policy, N(μ, σ²I), from the same transition of the base"
        " model, N(μ_ref, σ²I); z is a standard normal number. Values: D at distances d, of Fisher"
        " for σ = 1, of ε for s = 1. Divergences on one line have one formula; a sampled one"
        " estimates it from one draw a step, as the paper does."
    )
    return Table(TITLE, caption, header, [block], pd.DataFrame(data, columns=COLUMNS))


def plain(formula: str) -> str:
    """A formula in LaTeX as text for where LaTeX cannot be shown: d^2/2 → d²/2."""
    for pattern, replacement in _PLAIN:
        while (shorter := re.sub(pattern, replacement, formula)) != formula:
            formula = shorter
    return formula
