"""The divergences that the code offers, for the table and the figure that show them."""

from rocm_core.divergences import Divergence, load_divergence, names
from rocm_core.labels import method_label

_PAPER = ("kl", "js", "hellinger", "fisher")  # the rest follows by name


def by_formula() -> list[list[Divergence]]:
    """All of them, those of the paper first; those with one formula together, as KL and its
    reverse."""
    order = [*_PAPER, *(name for name in names() if name not in _PAPER)]
    groups: dict[str, list[Divergence]] = {}
    for divergence in map(load_divergence, order):
        groups.setdefault(divergence.formula, []).append(divergence)
    return list(groups.values())


def names_of(divergences: list[Divergence]) -> str:
    """Their published names: "KL, reverse KL"."""
    methods = (f"rocm-{divergence.name.replace('_', '-')}" for divergence in divergences)
    return ", ".join(method_label(method, short=True) for method in methods)
