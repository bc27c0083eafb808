"""The choice of a search or a study: of several trainings, the one that held-out scorers prefer.

It is made on one half of the validation prompts, so that the other half can say what it is worth.
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

    Each trial is (the settings that were tried, its scores.csv), and counts as `rank` says; `base`
    are the scores of the model that all started from. `edge` names the settings whose chosen value
    is an end of those tried, beyond which better may lie.
    """
    prompts, _ = halves(list(_scores(reward, base).index))
    merits, metrics = rank(reward, [path for _, path in trials], base, prompts)
    best = max(range(len(trials)), key=lambda index: merits[index])
    chosen = dict(trials[best][0])
    tried = {key: {values[key] for values, _ in trials} for key in chosen}
    return {
        "chosen": chosen,
        "edge": [k for k, v in chosen.items() if len(tried[k]) > 1 and v in _ends(tried[k])],
        "metrics": metrics,
        "prompts": len(prompts),
        "trials": [
            {**values, "merit": merit} for (values, _), merit in zip(trials, merits, strict=True)
        ],
    }


def rank(
    reward: str, scores: Sequence[Path], base: Path, prompts: Sequence[str]
) -> tuple[list[float], list[str]]:
    """What each file of scores is worth, and the metrics that say so.

    A model counts by its mean change against the base over prompts and metrics that are held out
    from the reward, each in standard deviations of the base's scores if there are several. The gold
    judge has no say: the paper has none. Raises `UserError` for scores of other prompts.
    """
    start = _scores(reward, base)
    changes = [overall(_scores(reward, path), start) - overall(start, start) for path in scores]
    for path, change in zip(scores, changes, strict=True):
        if change.reindex(list(prompts)).isna().any() or not len(prompts):
            raise UserError(
                f"{base} and {path} are not of the prompts that choose: score them again"
            )
    return [float(change[list(prompts)].mean()) for change in changes], list(start.columns)


def _scores(reward: str, path: Path) -> pd.DataFrame:
    """Scores of the held-out metrics, one row per prompt in its order, one column per metric."""
    scores = pd.read_csv(path, **CSV_OPTIONS)
    wide = scores.pivot_table("value", "prompt_id", "metric", sort=False)
    kept = [name for name in wide if name != GOLD and is_held_out(str(name), reward)]
    if not kept:
        raise UserError(f"{path}: nothing but {reward} scores a search: add another metric")
    return wide[kept]


def _ends(values: set[Any]) -> tuple[Any, Any]:
    return min(values), max(values)
