"""Two models compared over prompts and training seeds at once, and many comparisons at once.

Scores are matrices (seeds, prompts). A finding is to hold for other prompts and other trainings, so
both are drawn again, seeds as the outer level. Seeds are too few for that: of three there are ten
distinct draws, and an interval from them holds the truth 80 times in 100 instead of 95. So the
spread between seeds enters with the t distribution of seeds - 1 degrees of freedom that their mean
has if seeds are normal, and the bootstrap of the prompts carries only what prompts vary beyond the
noise that the seeds' spread already holds (the variance components of two crossed random factors;
Searle, Casella and McCulloch 1992, Variance Components, chapter 4). The level is then 1 to 6 %
instead of 5 for 2 to 10 seeds, whichever of the two varies more.
With one seed only prompts are drawn, and a finding speaks of that training alone.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rocm_core.analysis.statistics import (
    LEVEL,
    Estimate,
    percentile_interval,
    resampling,
    win_rate_interval,
)

ALPHA = 1 - LEVEL
MARGIN = 0.2  # a smaller effect is none: Cohen 1988, Statistical Power Analysis, calls 0.2 small
RESAMPLES = 20_000
_SEED = 0  # the same scores give the same interval
Matrix = NDArray[np.float64]
_fewer: ContextVar[int | None] = ContextVar("_fewer", default=None)


@contextmanager
def coarsely(resamples: int) -> Iterator[None]:
    """Fewer resamples inside, for verdicts that are only counted; p is at least 2 / (their number
    + 1), which a correction for many comparisons must leave below 0.05."""
    token = _fewer.set(resamples)
    try:
        yield
    finally:
        _fewer.reset(token)


def _resamples() -> int:
    return _fewer.get() or RESAMPLES


@dataclass(frozen=True)
class Comparison:
    """Treated less control.

    difference: in the unit of the score. effect: in standard deviations over prompts, the mean of
    both variances (Cumming 2012, Understanding the New Statistics, d_av). win_rate: share of
    prompts and seeds, ties as half. p: two-sided, that the difference is 0; consistent with
    `difference`: 1 where that has no interval. p_margin: two-sided, that the effect is -`MARGIN`,
    by which a loss beyond the margin is excluded (a test of non-inferiority; Walker and Nowacki
    2011, J. Gen. Intern. Med. 26:192). effect, win_rate and p_margin are None where only seeds
    were compared, effect and p_margin also where there is none. Scores that are all the same on
    both sides differ by 0, within [0, 0].
    """

    difference: Estimate
    effect: Estimate | None
    win_rate: Estimate | None
    p: float
    seeds: int
    p_margin: float | None = None

    @property
    def is_tie(self) -> bool:
        """Whether the effect's interval lies within ± `MARGIN`."""
        return self.effect is not None and -MARGIN < self.effect.low <= self.effect.high < MARGIN


def compare(treated: ArrayLike, control: ArrayLike) -> Comparison:
    """Compare scores (seeds, prompts), paired by position in both; a control that has no seeds,
    such as a base model, has one row. The same scores give the same answer."""
    after, before = _matrix(treated), _matrix(control)
    if after.shape[1] != before.shape[1] or len(before) not in (1, len(after)):
        raise ValueError(f"{after.shape} and {before.shape} scores cannot be paired")
    return _summarise(after - before, (after.mean(0), before.mean(0)))


def compare_differences(differences: ArrayLike, *, standardised: bool = False) -> Comparison:
    """The same of differences (seeds, prompts); `standardised`: they are effects already, in
    standard deviations, else there is no effect."""
    return _summarise(_matrix(differences), 1.0 if standardised else None)


def compare_shares(shares: ArrayLike) -> Comparison:
    """The same of shares of wins (seeds, prompts) in [0, 1], less ½. It is known how wins vary, so
    shares that are all equal have an interval, too: Wilson's, with the p-value that goes with it.
    """
    matrix = _matrix(shares)
    found, rate = _summarise(matrix - 0.5, None), win_rate_interval(matrix.mean(0))
    if found.difference.has_interval:
        return found
    share = rate.mean - 0.5
    difference = Estimate(share, rate.low - 0.5, rate.high - 0.5, rate.n)
    p = 2 * NormalDist().cdf(-2 * abs(share) * rate.n**0.5)
    return Comparison(difference, None, found.win_rate, p, len(matrix))


def compare_seeds(differences: ArrayLike) -> Comparison:
    """The same of one difference per seed (seeds,); raises `ValueError` for fewer than two."""
    sample = np.asarray(differences, dtype=np.float64)
    if sample.ndim != 1 or len(sample) < 2 or not np.isfinite(sample).all():
        raise ValueError("expected finite differences of at least two seeds")
    spread = sample.std(ddof=1) / len(sample) ** 0.5
    draws = sample.mean() + spread * _student(len(sample) - 1, _resamples())
    difference = percentile_interval(sample.mean(), draws, 0)
    return Comparison(difference, None, None, _p(draws, difference), len(sample))


def _summarise(differences: Matrix, unit: tuple[Matrix, Matrix] | float | None) -> Comparison:
    """`unit` of the effect: both sides' scores (prompts,), a number, or None: no effect."""
    seeds, prompts = differences.shape
    counts = resampling(prompts, _resamples(), _SEED)
    mean, draws = differences.mean(), _draws(differences, counts)
    difference, effect, effects = _interval(mean, draws, prompts), None, draws
    if isinstance(unit, float):
        effects = draws / unit
        effect = _interval(mean / unit, effects, prompts)
    elif unit and not draws.any():
        effect = difference
    elif unit and difference.has_interval and (deviation := average_deviation(*unit)) > 0:
        effects = draws / ((_variances(unit[0], counts) + _variances(unit[1], counts)) / 2) ** 0.5
        effect = _interval(mean / deviation, effects, prompts)
    wins = np.sign(differences) / 2 + 0.5
    if seeds == 1:
        rate = win_rate_interval(wins[0])
    else:
        share = percentile_interval(wins.mean(), _draws(wins, counts), prompts)
        rate = Estimate(share.mean, max(0.0, share.low), min(1.0, share.high), prompts)
    p_margin = _p(effects + MARGIN, effect) if effect else None
    return Comparison(difference, effect, rate, _p(draws, difference), seeds, p_margin)


def _interval(mean: float, draws: Matrix, prompts: int) -> Estimate:
    """`percentile_interval`; but that of models that score the same everywhere is [0, 0]."""
    if not draws.any():
        return Estimate(0.0, 0.0, 0.0, prompts)
    return percentile_interval(mean, draws, prompts)


def _draws(values: Matrix, counts: NDArray[np.float32]) -> Matrix:
    """The mean of values (seeds, prompts) as it would come out for other seeds and prompts."""
    (seeds, prompts), mean = values.shape, values.mean()
    of_prompts, of_seeds = values.mean(0) - mean, values.mean(1) - mean
    spread = (counts @ of_prompts.astype(np.float32)).astype(np.float64) / prompts
    spread *= _stretch(prompts, len(counts))
    if seeds == 1:
        return mean + spread
    # Mean squares of a two-way layout without replication.
    noise = values - mean - of_prompts - of_seeds[:, None]
    residual = (noise**2).sum() / max(1, (seeds - 1) * (prompts - 1))
    between_prompts = seeds * (of_prompts**2).sum() / max(1, prompts - 1)
    between_seeds = prompts * (of_seeds**2).sum() / (seeds - 1)
    own = max(0.0, between_prompts - residual) / between_prompts if between_prompts > 0 else 0.0
    scale = (between_seeds / values.size) ** 0.5
    return mean + own**0.5 * spread + scale * _student(seeds - 1, len(counts))


def average_deviation(first: Matrix, second: Matrix) -> float:
    """Square root of the mean of two variances over prompts, the unit of an effect."""
    return float(((first.var(ddof=1) + second.var(ddof=1)) / 2) ** 0.5)


def _variances(values: Matrix, counts: NDArray[np.float32]) -> Matrix:
    """Variance of values (prompts,) in each resample, never below a trillionth of theirs."""
    n = len(values)
    centred = (values - values.mean()).astype(np.float32)
    first, second = (counts @ centred) / n, (counts @ centred**2) / n
    return np.maximum(second - first**2, 1e-12 * centred.var()).astype(np.float64) * n / (n - 1)


@functools.lru_cache(maxsize=8)
def _stretch(prompts: int, size: int) -> Matrix:
    """What a sample's own spread falls short of, in draws: with it a bootstrap of normal scores has
    Student's tails. Without, p-values far below 0.05, as a correction for many comparisons needs
    them, are half of what they should be at 50 prompts."""
    chi2 = np.random.default_rng([_SEED, prompts, 1]).chisquare(prompts - 1, size)
    return (prompts / chi2) ** 0.5


@functools.lru_cache(maxsize=8)
def _student(freedom: int, size: int) -> Matrix:
    return np.random.default_rng([_SEED, freedom]).standard_t(freedom, size)


def _p(draws: Matrix, estimate: Estimate) -> float:
    """Two-sided; never below 2 / (draws + 1). Identical models, whose draws are all 0, give 1, and
    so does an estimate without an interval."""
    if not estimate.has_interval:
        return 1.0
    below, above = np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0)
    return min(1.0, 2 * (min(below, above) + 1) / (len(draws) + 1))


def _matrix(scores: ArrayLike) -> Matrix:
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] < 1 or matrix.shape[1] < 2:
        raise ValueError(f"expected scores (seeds, two prompts or more), got {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("scores hold NaN or infinity")
    return matrix


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979, Scand. J. Stat. 6:65): one below 0.05 is
    wrong in at most 5 % of such families, however the comparisons depend on one another."""
    order = np.argsort(p_values)
    scaled = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return corrected.tolist()
