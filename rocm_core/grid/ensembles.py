"""How the scores of an ensemble become one reward: a weighted sum (Eyring et al. 2024, arXiv
2406.04312), the worst case, or one that counts disagreement as a loss (Coste et al. 2023, arXiv
2310.02743)."""

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from rocm_core.configuration import Ensemble

Standards = Mapping[str, Mapping[str, float]]  # {scorer: mean and std of the base's scores}
_TINY = 1e-12  # below the root: scorers that agree exactly have a gradient


def combine(scores: Any, ensemble: Ensemble, standards: Standards) -> Any:
    """One reward for each image from its `scores[scorer]`, tensors `(N,)` or columns of pandas.

    A scorer counts in standard deviations of the base's scores from their mean.
    """
    z = [(scores[k] - standards[k]["mean"]) / standards[k]["std"] for k in ensemble.of]
    if ensemble.combine == "minimum":
        return functools.reduce(lambda a, b: a.where(a <= b, b), z)
    if ensemble.combine == "sum":
        weights = ensemble.of.values()
        return _sum([weight * score for weight, score in zip(weights, z, strict=True)])
    mean = _sum(z) / len(z)
    variance = _sum([(score - mean) ** 2 for score in z]) / len(z)
    return mean - ensemble.deviations * (variance + _TINY) ** 0.5


def _sum(parts: Sequence[Any]) -> Any:
    return functools.reduce(operator.add, parts)
