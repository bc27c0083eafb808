"""Which metrics evaluate a model, the gold judge where there is one, else those not trained on; and
the values of β that were tried for each divergence of ROCM, which they judge."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rocm_core.analysis.results import GOLD, Results
from rocm_core.grid import beta_tries

# Versions of a scorer that the field reports side by side: who trains on one has trained on both.
VERSIONS = {"hpsv2_0": "hpsv2"}


def is_held_out(metric: str, reward: str) -> bool:
    """Whether a scorer measures something other than the one that was trained on.

    Training on one version of a scorer counts as training on all of them.
    """
    metric, reward = (name.replace("-", "_") for name in (metric, reward))
    return VERSIONS.get(metric, metric) != VERSIONS.get(reward, reward)


def evaluators(results: Results, reward: str) -> list[str]:
    """The gold judge where there is one, else every metric that was not trained on."""
    metrics = results.config.metrics
    return [GOLD] if GOLD in metrics else [m for m in metrics if is_held_out(m, reward)]


def overall(scores: pd.DataFrame, base: pd.DataFrame) -> pd.Series:
    """One number per row of `scores`, which has one column per evaluator: the score of a single
    one, else the mean over all in standard deviations of the base model's scores over prompts
    (`base`)."""
    return scores.iloc[:, 0] if scores.shape[1] == 1 else (scores / base.std()).mean(axis=1)


def final_scores(results: Results, method: str, reward: str) -> pd.DataFrame:
    """Final scores of a method or base by the evaluators of `reward`, one row per prompt; empty
    where some are missing."""
    metrics = evaluators(results, reward)
    return pd.DataFrame({m: results.scores(method, m, reward) for m in metrics}).dropna()


@dataclass(frozen=True)
class SweepPoint:
    """A method trained on a reward with one β (NaN: automatic, and not trained yet).

    `family` is the method without the sweep's value.
    """

    reward: str
    family: str
    method: str
    beta: float


def sweep_points(results: Results) -> list[SweepPoint]:
    """All β of those rewards and divergences for which several were tried, the largest first."""
    cells = {(cell.reward, cell.variant): cell for cell in beta_tries(results.cells)}
    points = [
        SweepPoint(reward, cell.method, variant, _beta(results, reward, variant))
        for (reward, variant), cell in cells.items()
    ]
    return sorted(points, key=lambda point: math.inf if math.isnan(point.beta) else -point.beta)


def verdicts(results: Results, reward: str, method: str) -> tuple[pd.Series, pd.Series]:
    """What the evaluators of a reward think of a model and of its base, prompt by prompt; empty
    where scores are missing (partial)."""
    base = final_scores(results, results.base_of(reward, method), reward)
    after = final_scores(results, method, reward)
    return overall(after, base), overall(base, base)


def _beta(results: Results, reward: str, method: str) -> float:
    """β of a method; where it is automatic, the mean of what its seeds came to."""
    cells = [source.cell for source in results.sources(reward, method) if source.cell]
    if cells[0].settings.beta != "auto":
        return float(cells[0].settings.beta)
    measured = [results.manifests[c.name]["beta"] for c in cells if c.name in results.manifests]
    return float(np.mean(measured)) if measured else math.nan
