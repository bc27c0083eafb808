"""Which metrics evaluate a model: the gold judge where there is one, else those not trained on."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

from rocm_core.analysis.gold import GOLD
from rocm_core.grid import is_held_out
from rocm_core.plugins import facts

if TYPE_CHECKING:  # else a search, which needs `overall`, would be as old as how results are read
    from rocm_core.analysis.results import Results


def held_out(metrics: Iterable[Any], used: Iterable[str]) -> list[str]:
    """The scorers that can say what a training is worth which used some: none of these, nor one
    that measures a task and no worth (`JUDGES`). The gold judge has a say of its own."""
    known = {*used}
    return [
        m for m in metrics if m != GOLD and is_held_out(m, known) and facts("rewards", m)["JUDGES"]
    ]


def evaluators(results: "Results", reward: str) -> list[str]:
    """The gold judge where there is one, else the scorers held out from a reward."""
    metrics = results.config.metrics
    return [GOLD] if GOLD in metrics else held_out(metrics, results.used(reward))


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
