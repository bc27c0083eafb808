"""The choice of a search or a study: of several trainings, the one that held-out scorers prefer.

It is made on one half of the validation prompts, so that the other half can say what it is worth.
A search chooses among the trials that learned: one that has not moved loses nothing by any scorer,
and would often win.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    Each trial is (the settings that were tried, its scores.csv), and counts as `rank` says; `base`
    are the scores of the model that all started from. `edge` names the settings whose chosen value
    is an end of those tried, beyond which better may lie.
    """
    prompts, _ = halves(list(_scores(reward, base)[0].index))
    ranking = rank(reward, [path for _, path in trials], base, prompts)
    chosen = dict(trials[ranking.best][0])
    tried = {key: {values[key] for values, _ in trials} for key in chosen}
    merits, gains, learned = ranking.merits, ranking.gains, ranking.learned
    return {
        "chosen": chosen,
        "edge": [k for k, v in chosen.items() if len(tried[k]) > 1 and v in _ends(tried[k])],
        "metrics": ranking.metrics,
        "prompts": len(prompts),
        "trials": [
            {**values, "merit": merit, "gain": gain, "learned": kept}
            for (values, _), merit, gain, kept in zip(trials, merits, gains, learned, strict=True)
        ],
    }


@dataclass(frozen=True)
class Ranking:
    """What several models are worth, in their order.

    merits: mean change against the base over prompts and held-out `metrics`, each in standard
    deviations of the base's scores if there are several. The gold judge has no say: the paper has
    none. gains: mean change of the training reward, 0 where nobody measured it.
    """

    metrics: list[str]
    merits: list[float]
    gains: list[float]

    @property
    def learned(self) -> list[bool]:
        """Which models gained at least `LEARNED` of the largest gain."""
        return [gain >= LEARNED * max(*self.gains, 0.0) for gain in self.gains]

    @property
    def best(self) -> int:
        """The place of the largest merit among those that learned; of equals the first."""
        candidates = [i for i, kept in enumerate(self.learned) if kept] or range(len(self.gains))
        return max(candidates, key=lambda i: self.merits[i])


def rank(reward: str, scores: Sequence[Path], base: Path, prompts: Sequence[str]) -> Ranking:
    """What models are worth by their files of scores, on some of the prompts. Raises `UserError`
    for scores of others."""
    start, known = _scores(reward, base)
    merits, gains, wanted = [], [], list(prompts)
    for path in scores:
        held_out, trained = _scores(reward, path)
        change = (overall(held_out, start) - overall(start, start)).reindex(wanted)
        if change.isna().any() or not wanted:
            raise UserError(
                f"{base} and {path} are not of the prompts that choose: score them again"
            )
        merits.append(float(change.mean()))
        gains.append(float((trained - known)[wanted].mean()))
    return Ranking(list(start.columns), merits, gains)


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
