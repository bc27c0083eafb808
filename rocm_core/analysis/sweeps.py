"""The values of β that were tried for each divergence of ROCM, and how these models score.

They were tried in short trainings, of which a search chose one, or in trainings of full length.
"""

import math
from dataclasses import dataclass

import pandas as pd

from rocm_core.analysis.choice import halves
from rocm_core.analysis.judging import final_scores, overall
from rocm_core.analysis.results import Results
from rocm_core.analysis.statistics import Estimate, mean_interval
from rocm_core.grid import beta_tries, trials_of

ROCM_NONE = "rocm-none"


@dataclass(frozen=True)
class SweepPoint:
    """A method trained on a reward with one β (NaN: not known yet).

    `family` is the method without the sweep's value; a `trial` is a short training of a search.
    """

    reward: str
    family: str
    method: str
    beta: float
    trial: bool = False


def sweep_points(results: Results, *, trials: bool) -> list[SweepPoint]:
    """All β of those rewards and divergences for which several were tried, the largest first.

    trials: where there are both, those of the search, else those trained to the end.
    """
    tries = beta_tries(results.cells)
    kinds = {(cell.reward, cell.method, cell.trial) for cell in tries}
    cells = {
        (cell.reward, cell.variant): cell
        for cell in tries
        if cell.trial == trials or (cell.reward, cell.method, trials) not in kinds
    }
    points = [
        SweepPoint(
            reward,
            cell.method,
            variant,
            # Over the seeds that there are.
            pd.Series([results.beta(one) for one in results.sources(reward, variant)]).mean(),
            cell.trial,
        )
        for (reward, variant), cell in cells.items()
    ]
    return sorted(points, key=lambda point: math.inf if math.isnan(point.beta) else -point.beta)


def unregularised(results: Results, reward: str, family: str) -> str | None:
    """What a divergence of ROCM would be without it: itself at a swept β of 0, or no divergence
    where that trains at the same learning rate."""
    for point in sweep_points(results, trials=False):
        is_own = (point.reward, point.family) == (reward, family) and point.method != family
        if is_own and point.beta == 0 and not point.trial:
            return point.method
    both = {ROCM_NONE, family} <= set(results.methods(reward))
    return ROCM_NONE if both and same_rate(results, reward, ROCM_NONE, family) else None


def same_rate(results: Results, reward: str, *methods: str) -> bool:
    """Whether trainings begin with the same learning rate, as far as it is known: what a search has
    yet to choose may be the same."""
    rates = [results.learning_rate(results.sources(reward, method)[0]) for method in methods]
    return any(map(math.isnan, rates)) or math.isclose(*rates)


def lead_of_choice(results: Results, reward: str, family: str) -> Estimate | None:
    """How far held-out scorers put what a search chose before the next best that had learned, on
    the prompts that did not choose, which do not flatter it; None without such a one."""
    tries, metrics = (results.choice(reward, family, entry) for entry in ("trials", "metrics"))
    able = [one for one in tries if one["learned"]] or tries
    models = [
        trial.variant
        for one in sorted(able, key=lambda one: -one["merit"])[:2]
        for trial in trials_of(results.cells, reward, family)
        if all(one.get(key) == value for key, value in trial.swept if key != "iterations")
    ]
    if len(models) < 2:
        return None
    chosen, second, base = (
        pd.DataFrame({name: results.scores(model, name, reward) for name in metrics}).dropna()
        for model in (*models, results.base_of(reward, models[0]))
    )
    lead = overall(chosen, base) - overall(second, base)
    lead = lead.reindex(halves([prompt.id for prompt in results.prompts])[1]).dropna()
    return mean_interval(lead) if len(lead) else None


def verdicts(results: Results, reward: str, method: str) -> tuple[pd.Series, pd.Series]:
    """What the evaluators of a reward think of a model and of its base, prompt by prompt; empty
    where scores are missing (partial)."""
    base = final_scores(results, results.base_of(reward, method), reward)
    return overall(final_scores(results, method, reward), base), overall(base, base)
