"""Results of the votes: win rates, agreement of the raters, and whether a side was favoured.

Raters and pairs are crossed, and a preference should hold for other people and prompts. Therefore
the intervals come from the pigeonhole bootstrap (Owen 2007, Ann. Appl. Stat. 1:386), which
resamples raters and pairs independently, with replacement; treating 3,000 votes of ten people as
independent would make them several times too narrow. They are too wide where raters differ only by
chance. With one rater only pairs are resampled, and the interval applies to that rater.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rocm_core.analysis import Estimate, only, percentile_interval
from rocm_core.errors import UserError
from rocm_core.provenance import (
    StudyFiles,
    hash_inputs,
    record_beside,
    write_csv,
    write_json,
    write_manifest,
)
from rocm_core.study.design import QUESTIONS, TIE, Key
from rocm_core.study.votes import read_votes, require_settled

RESAMPLES = 10_000
_TIED = 0.5  # a tie is half a win, as in rocm_core.analysis.statistics


@dataclass(frozen=True)
class Outcome:
    """The answers to one question on one comparison.

    `win_rate` is the share of votes for `first`, `left_rate` of those for the left image, with a
    tie as half of one; `agreement` is Krippendorff's alpha, None where no pair has two raters.
    """

    first: str
    second: str
    question: str
    raters: int
    pairs: int
    votes: int
    wins: int
    ties: int
    losses: int
    win_rate: Estimate
    left_rate: Estimate
    agreement: float | None

    def flat(self) -> dict[str, Any]:
        """One row of a table; the ends of an interval that there is not are None."""
        row = dict(vars(self))
        for name in ("win_rate", "left_rate"):
            estimate = row[name]
            ends = (estimate.low, estimate.high) if estimate.has_interval else (None, None)
            row |= {name: estimate.mean, f"{name}_low": ends[0], f"{name}_high": ends[1]}
        return row


def aggregate(folder: Path, fingerprint: str = "") -> list[Outcome]:
    """Write `results.json` and `results.csv` of the study in `folder` from its votes, and their
    manifest.

    fingerprint: of the code. Raises `UserError` for a study without votes and for votes of another
    study.
    """
    key = Key.read(folder)
    files = StudyFiles(folder)
    votes = tabulate(key, files.votes)
    inputs = hash_inputs(files.counted)
    outcomes = [
        outcome(answers, *key.comparisons[number], question)
        for number, question in itertools.product(range(len(key.comparisons)), QUESTIONS)
        if len(answers := only(votes, comparison=number, question=question))
    ]
    rows = [one.flat() for one in outcomes]
    content = {"study": key.study, "ties": key.ties, "chosen": key.chosen}
    content |= {"simulated": files.simulated in files.counted}
    write_json(files.results, content | {"outcomes": rows, "raters": _raters(key, votes)})
    write_csv(files.table, rows[0] if rows else (), (row.values() for row in rows))
    write_manifest(
        record_beside(files.results),
        settings={},
        code=fingerprint,
        inputs=inputs,
        outputs=[files.results, files.table],
    )
    return outcomes


def tabulate(key: Key, path: Path) -> pd.DataFrame:
    """One row per answer: comparison, question, rater, pair, for_first, for_left in {0, ½, 1}."""
    require_settled(path)
    if not path.exists():
        raise UserError(f"{path} does not exist: nobody has voted yet")
    rows, seen = [], set()
    for number, vote in enumerate(read_votes(path), 1):
        pair, cast = key.pairs.get(vote.pair), (vote.rater, vote.pair)
        allowed = {vote.left, vote.right, TIE}
        if (
            pair is None
            or vote.rater not in key.raters
            or {vote.left, vote.right} != set(pair.sides)
            or vote.answers.keys() != set(QUESTIONS)
            or not allowed.issuperset(vote.answers.values())
            or cast in seen
        ):
            raise UserError(
                f"{path}:{number} is not a vote of this study, or a repeated one: remove it"
            )
        seen.add(cast)
        rows += [
            {
                "comparison": pair.comparison,
                "question": question,
                "rater": vote.rater,
                "pair": vote.pair,
                "for_first": _TIED if answer == TIE else float(answer == pair.first),
                "for_left": _TIED if answer == TIE else float(answer == vote.left),
            }
            for question, answer in vote.answers.items()
        ]
    if not rows:
        raise UserError(f"{path} is empty: nobody has voted yet")
    return pd.DataFrame(rows)


def outcome(votes: pd.DataFrame, first: str, second: str, question: str) -> Outcome:
    """The result of one question on one comparison, from its answers (rows of `tabulate`)."""
    scores, lefts = (
        votes.pivot(index="rater", columns="pair", values=name).to_numpy()
        for name in ("for_first", "for_left")
    )
    return Outcome(
        first=first,
        second=second,
        question=question,
        raters=scores.shape[0],
        pairs=scores.shape[1],
        votes=len(votes),
        wins=int((votes["for_first"] == 1).sum()),
        ties=int((votes["for_first"] == _TIED).sum()),
        losses=int((votes["for_first"] == 0).sum()),
        win_rate=crossed_mean(scores),
        left_rate=crossed_mean(lefts),
        agreement=krippendorff_alpha(scores),
    )


def crossed_mean(scores: NDArray[np.float64], *, resamples: int = RESAMPLES) -> Estimate:
    """Mean of scores (raters, pairs), NaN where there is no vote, with its 95 % interval.

    `n` counts pairs. The same scores give the same interval.
    """
    generator = np.random.default_rng(0)
    present = ~np.isnan(scores)
    known = np.where(present, scores, 0.0)
    raters, pairs = (
        generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
        for n in scores.shape
    )
    totals, weights = (((raters @ part) * pairs).sum(1) for part in (known, present))
    drawn = totals[weights > 0] / weights[weights > 0]
    return percentile_interval(known.sum() / present.sum(), drawn, scores.shape[1])


def krippendorff_alpha(scores: NDArray[np.float64]) -> float | None:
    """Agreement on scores (raters, pairs) beyond chance: 1 perfect, 0 none; NaN: no vote.

    The interval metric, so that a win and a tie disagree less than a win and a loss;
    without ties it is the nominal one (Krippendorff 2011, Computing Krippendorff's
    Alpha-Reliability). None where no pair has two raters or all votes are alike.
    """
    units = [column[~np.isnan(column)] for column in scores.T]
    units = [unit for unit in units if len(unit) > 1]
    if not units:
        return None
    # Over all ordered couples of n values, the mean squared difference is twice their variance.
    pooled = np.concatenate(units)
    expected = pooled.var(ddof=1)
    observed = sum(len(unit) * unit.var(ddof=1) for unit in units) / len(pooled)
    return float(1 - observed / expected) if expected > 0 else None


def _raters(key: Key, votes: pd.DataFrame) -> list[dict[str, Any]]:
    """Each rater's number of answered pairs and share of answers for the left image."""
    rows = []
    for code in key.raters:
        own = only(votes, rater=code)["for_left"]
        left = float(own.mean()) if len(own) else None
        rows.append({"rater": code, "pairs": len(own) // len(QUESTIONS), "left_rate": left})
    return rows
