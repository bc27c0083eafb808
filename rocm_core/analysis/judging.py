"""Which metrics evaluate a model: the gold judge where there is one, else those not trained on."""

from typing import TYPE_CHECKING

import pandas as pd

from rocm_core.analysis.gold import GOLD
from rocm_core.grid import is_held_out

if TYPE_CHECKING:  # else a search, which needs `overall`, would be as old as how results are read
    from rocm_core.analysis.results import Results


def evaluators(results: "Results", reward: str) -> list[str]:
    """The gold judge where there is one, else every metric that no training on a reward used."""
    metrics, used = results.config.metrics, results.used(reward)
    return [GOLD] if GOLD in metrics else [m for m in metrics if is_held_out(m, used)]


def overall(scores: pd.DataFrame, base: pd.DataFrame) -> pd.Series:
    """One number per row of `scores`, which has one column per evaluator: the score of a single
    one, else the mean over all in standard deviations of the base model's scores over prompts
    (`base`); an evaluator whose scores do not vary counts as it is."""
    units = base.std().fillna(0.0).replace(0.0, 1.0)
    return scores.iloc[:, 0] if scores.shape[1] == 1 else (scores / units).mean(axis=1)


def final_scores(results: "Results", method: str, reward: str) -> pd.DataFrame:
    """Final scores of a method or base by the evaluators of `reward`, one row per prompt; empty
    where some are missing."""
    return pd.DataFrame(
        {m: results.scores(method, m, reward) for m in evaluators(results, reward)}
    ).dropna()
