"""The choice of a search or a study: of several trainings, the one that held-out scorers prefer.

It is made on one half of the validation prompts, so that the other half can say what it is worth.
A search chooses among the trials that learned: one that has not moved loses nothing by any scorer,
and would often win.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rocm_core.analysis.judging import held_out, overall
from rocm_core.configuration import Ensemble
from rocm_core.errors import UserError
from rocm_core.grid import Standards, combine
from rocm_core.provenance import CSV_OPTIONS

# Trials are shorter than the training, in which what is held back falls further behind: a gain of
# 0.78 of the largest after 100 updates of the embedded world was 0.58 of it after 200.
LEARNED = 0.8
Trial = tuple[Mapping[str, Any], Path]


def halves(prompt_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """The prompts, in their order, on which a search chooses, and those that are left to it."""
    return list(prompt_ids[::2]), list(prompt_ids[1::2])


@dataclass(frozen=True)
class Trained:
    """What models were trained on: a reward, be it an ensemble with its standards, and all scorers
    that they `used` if these are others."""

    reward: str
    used: Collection[str] = ()
    ensemble: Ensemble | None = None
    standards: Standards | None = None

    def held_out(self, metrics: Iterable[Any]) -> list[str]:
        """The metrics that have a say."""
        return held_out(metrics, self.used or [self.reward])

    def gained(self, scores: pd.DataFrame) -> pd.Series:
        """The training reward of each row of scores, one column per metric; 0 where nobody measured
        it."""
        if self.ensemble and self.standards:
            return combine(scores, self.ensemble, self.standards)
        return scores.get(self.reward, 0.0 * scores.iloc[:, 0])


def choose(trained: Trained, trials: Sequence[Trial], base: Path) -> dict[str, Any]:
    """What the best of `trials` was trained with, as `chosen`, and how all did, as `trials`.

    Each trial is (the settings that were tried, its scores.csv), and counts as `rank` says; `base`
    are the scores of the model that all started from. `edge` names the settings whose chosen value
    is an end of those tried, beyond which better may lie.
    """
    prompts, _ = halves(list(_scores(trained, base)[0].index))
    ranking = rank(trained, [path for _, path in trials], base, prompts)
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


def choose_snapshot(scores: Mapping[int, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """The step at which a training is best by its {step: {scorer: score of each prompt}}, step 0
    being the base, as `chosen`; of equals the first. `merits`: of every step, as `Ranking` has
    them."""
    base = pd.DataFrame(scores[0])
    start = overall(base, base)
    merits = {
        step: float((overall(pd.DataFrame(own), base) - start).mean())
        for step, own in scores.items()
        if step
    }
    return {"chosen": max(merits, key=lambda step: merits[step]), "merits": merits}


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
        """Which models gained, and at least `LEARNED` of the largest gain."""
        return [gain > 0 and gain >= LEARNED * max(self.gains) for gain in self.gains]

    @property
    def best(self) -> int:
        """The place of the largest merit among those that learned; of equals the first."""
        candidates = [i for i, kept in enumerate(self.learned) if kept] or range(len(self.gains))
        return max(candidates, key=lambda i: self.merits[i])


def rank(trained: Trained, scores: Sequence[Path], base: Path, prompts: Sequence[str]) -> Ranking:
    """What models are worth by their files of scores, on some of the prompts. Raises `UserError`
    for scores of others."""
    start, known = _scores(trained, base)
    merits, gains, wanted = [], [], list(prompts)
    for path in scores:
        held_out, reward = _scores(trained, path)
        change = (overall(held_out, start) - overall(start, start)).reindex(wanted)
        if change.isna().any() or not wanted:
            raise UserError(
                f"{base} and {path} are not of the prompts that choose: score them again"
            )
        merits.append(float(change.mean()))
        gains.append(float((reward - known)[wanted].mean()))
    return Ranking(list(start.columns), merits, gains)


def _scores(trained: Trained, path: Path) -> tuple[pd.DataFrame, pd.Series]:
    """Scores of the held-out metrics, one row per prompt in its order, one column per metric; and
    of the training reward."""
    scores = pd.read_csv(path, **CSV_OPTIONS)
    wide = scores.pivot_table("value", "prompt_id", "metric", sort=False)
    kept = trained.held_out(wide)
    if not kept:
        seen = ", ".join(trained.used or [trained.reward])
        raise UserError(f"{path}: nothing but {seen} scores a search: add another metric")
    return wide[kept], trained.gained(wide)


def _ends(values: set[Any]) -> tuple[Any, Any]:
    return min(values), max(values)
