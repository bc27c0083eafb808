"""The choice of a search: of several short trainings that learned, the one that held-out scorers
prefer.

A model that has not moved loses nothing by them, and would often win. The choice is made on one
half of the validation prompts, so that the other half can say what it is worth.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rocm_core.analysis.judging import is_held_out, overall
from rocm_core.analysis.results import GOLD
from rocm_core.errors import UserError
from rocm_core.provenance import CSV_OPTIONS

# Trials are shorter than the training, in which what is held back falls further behind: a gain of
# 0.78 of the largest after 100 updates of the embedded world was 0.58 of it after 200.
LEARNED = 0.8
Trial = tuple[Mapping[str, Any], Path]


def halves(prompt_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """The prompts, in their order, on which a search chooses, and those that are left to it."""
    return list(prompt_ids[::2]), list(prompt_ids[1::2])


def choose(reward: str, trials: Sequence[Trial], base: Path) -> dict[str, Any]:
    """What the best of `trials` was trained with, as `chosen`, and how all did, as `trials`.

    Each trial is (the settings that were tried, its scores.csv); `base` are the scores of the model
    that all started from. A trial's `merit` is its mean change over prompts and held-out metrics,
    each in standard deviations of the base's scores if there are several, and `gain` that of the
    training reward. The best merit wins among those that `learned`: that gained at least `LEARNED`
    of the largest gain, or all where nobody measured the training reward. The gold judge has no
    say: the paper has none. `edge` names the settings whose chosen value is an end of those tried,
    beyond which better may lie.
    """
    start, known = _scores(reward, base)
    prompts, _ = halves(list(start.index))
    merits, gains = [], []
    for _, path in trials:
        scores, trained = _scores(reward, path)
        merits.append(float((overall(scores, start) - overall(start, start))[prompts].mean()))
        gains.append(float((trained - known)[prompts].mean()))
    if not all(merit == merit for merit in merits):
        raise UserError(f"{base} and the scores of the trials are not of the same prompts")
    learned = [gain >= LEARNED * max(*gains, 0.0) for gain in gains]
    candidates = [i for i, kept in enumerate(learned) if kept] or range(len(trials))
    best = max(candidates, key=lambda i: merits[i])
    chosen = dict(trials[best][0])
    tried = {key: {values[key] for values, _ in trials} for key in chosen}
    return {
        "chosen": chosen,
        "edge": [k for k, v in chosen.items() if len(tried[k]) > 1 and v in _ends(tried[k])],
        "metrics": list(start.columns),
        "prompts": len(prompts),
        "trials": [
            {**values, "merit": merit, "gain": gain, "learned": kept}
            for (values, _), merit, gain, kept in zip(trials, merits, gains, learned, strict=True)
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
