"""The choice of a search: of several short trainings, the best by held-out scorers, as far as they
can tell.

Of those that they do not tell from the best, the one that learned most: else a model that has not
moved would often win, since it loses nothing either. It is made on one half of the validation
prompts, so that the other half can say what it is worth.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rocm_core.analysis.judging import is_held_out, overall
from rocm_core.analysis.results import GOLD
from rocm_core.errors import UserError
from rocm_core.provenance import CSV_OPTIONS

Trial = tuple[Mapping[str, Any], Path]


def halves(prompt_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """The prompts, in their order, on which a search chooses, and those that are left to it."""
    return list(prompt_ids[::2]), list(prompt_ids[1::2])


def choose(reward: str, trials: Sequence[Trial], base: Path) -> dict[str, Any]:
    """What the best of `trials` was trained with, as `chosen`, and how all did, as `trials`.

    Each trial is (the settings that were tried, its scores.csv); `base` are the scores of the model
    that all started from. A trial's `merit` is its mean change over prompts and held-out metrics,
    each in standard deviations of the base's scores if there are several, and `gain` that of the
    training reward. Among the trials whose merit is within one standard error of the best, paired
    over prompts, the largest gain decides (the one-standard-error rule of Breiman et al. 1984,
    Classification and Regression Trees, section 3.4.3, which there prefers the smallest tree);
    where the training reward is not among the scores, the merit. The gold judge has no say: the
    paper has none. `edge` names the settings whose chosen value is an end of those tried, beyond
    which better may lie.
    """
    start, known = _scores(reward, base)
    prompts, _ = halves(list(start.index))
    merits, gains = [], []
    for _, path in trials:
        scores, trained = _scores(reward, path)
        merits.append((overall(scores, start) - overall(start, start))[prompts])
        gains.append(float((trained - known)[prompts].mean()))
    if any(merit.isna().any() for merit in merits):
        raise UserError(f"{base} and the scores of the trials are not of the same prompts")
    leader = max(merits, key=lambda merit: float(merit.mean()))
    # Of a single prompt there is no standard error, and it tells nothing.
    told = [(leader - merit).mean() > (leader - merit).sem() for merit in merits]
    tied = [i for i in range(len(trials)) if not told[i]]
    best = max(tied, key=lambda i: (gains[i], merits[i].mean()))
    chosen = dict(trials[best][0])
    tried = {key: {values[key] for values, _ in trials} for key in chosen}
    return {
        "chosen": chosen,
        "edge": [k for k, v in chosen.items() if len(tried[k]) > 1 and v in _ends(tried[k])],
        "metrics": list(start.columns),
        "prompts": len(prompts),
        "trials": [
            {**values, "merit": float(merit.mean()), "gain": gain, "tied": not behind}
            for (values, _), merit, gain, behind in zip(trials, merits, gains, told, strict=True)
        ],
    }


def _scores(reward: str, path: Path) -> tuple[pd.DataFrame, pd.Series]:
    """Scores of the held-out metrics, one row per prompt in its order, one column per metric; and
    of the training reward, 0 where nobody measured it."""
    scores = pd.read_csv(path, **CSV_OPTIONS)
    wide = scores.pivot_table("value", "prompt_id", "metric", sort=False)
    kept = [name for name in wide if name != GOLD and is_held_out(str(name), reward)]
    if not kept:
        raise UserError(f"{path}: nothing but {reward} scores a search: add another metric")
    return wide[kept], wide.get(reward, 0.0 * wide[kept[0]])


def _ends(values: set[Any]) -> tuple[Any, Any]:
    return min(values), max(values)
