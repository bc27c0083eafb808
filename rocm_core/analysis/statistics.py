"""Means, differences and win rates with 95 % intervals; the prompt is the unit.

Scores of several training seeds are averaged within a prompt first (`per_prompt`), so that an
interval says how the result varies over prompts. It says nothing about other training seeds:
`rocm_core.analysis.comparison` does, which decides claims.
"""

import functools
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from rocm_core.analysis.labels import decimals, number

LEVEL = 0.95
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
_NONE = "no interval"
_ROUNDING = 1e-9  # of a value: what differs less is equal


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` prompts with its two-sided 95 % interval, in the unit of the score.

    One value, or values that are all equal, say nothing of what others would be: such a sample has
    no interval, and `low` and `high` are NaN.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the interval's width; NaN without one."""
        return (self.high - self.low) / 2

    @property
    def has_interval(self) -> bool:
        """Whether the sample has an interval."""
        return not math.isnan(self.half_width)

    def plus_minus(self, digits: int) -> str:
        """The mean and the half-width: "0.271 ± 0.012", or "0.271 (no interval)"."""
        half = f"± {number(self.half_width, digits)}" if self.has_interval else f"({_NONE})"
        return f"{number(self.mean, digits)} {half}"

    def bounds(self, digits: int, *, signed: bool = True) -> str:
        """The interval: "[+0.03, +0.20]", or "[no interval]"."""
        ends = [number(end, digits, signed=signed) for end in (self.low, self.high)]
        return f"[{', '.join(ends) if self.has_interval else _NONE}]"

    def change(self, digits: int | None = None, unit: str = "") -> str:
        """A difference and its interval: "+0.12 [+0.03, +0.20]"; by default with two digits of the
        half-width, one more where an end would be rounded to 0."""
        places = decimals(self.half_width) if digits is None else digits
        if digits is None and any(end and not round(end, places) for end in (self.low, self.high)):
            places += 1  # or an end beside 0 would read as 0
        return f"{number(self.mean, places, signed=True)}{unit} {self.bounds(places)}"

    @property
    def direction(self) -> str:
        """`rises` or `falls` when a difference's interval excludes 0, else `undecided`."""
        return "rises" if self.low > 0 else "falls" if self.high < 0 else "undecided"


def per_prompt(scores: pd.DataFrame) -> pd.Series:
    """Mean value of each `prompt_id` over seeds, sorted by prompt id.

    `scores` has the columns prompt_id and value. Where seeds cover different prompts, a prompt
    is averaged over the seeds that have it.
    """
    return scores.groupby("prompt_id")["value"].mean().sort_index()


def mean_interval(values: ArrayLike) -> Estimate:
    """Mean of `values` (n,), one number per prompt, with its normal-approximation interval."""
    sample = _vector(values)
    n = len(sample)
    mean = float(sample.mean())
    half = _Z * float(sample.std(ddof=1)) / n**0.5 if _vary(sample) else math.nan
    return Estimate(mean, mean - half, mean + half, n)


def paired_difference(
    treated: pd.Series, control: pd.Series, *, resamples: int = 10_000
) -> Estimate:
    """Mean of treated - control over their common prompts, with a percentile bootstrap interval.

    Both are indexed by prompt id (see `per_prompt`); a prompt only one side has is left out.
    The same arguments give the same interval.
    """
    first, second = treated.align(control, join="inner")
    difference = _vector(first.to_numpy() - second.to_numpy())
    means = bootstrap_means(difference, resamples=resamples, seed=0)
    return percentile_interval(difference.mean(), means, len(difference))


def percentile_interval(mean: float, draws: NDArray[np.float64], n: int) -> Estimate:
    """A mean over `n` prompts with the interval that holds 95 % of its draws (draws,)."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail]) if _vary(draws) else (math.nan, math.nan)
    return Estimate(float(mean), float(low), float(high), n)


def bootstrap_means(values: ArrayLike, *, resamples: int, seed: int) -> NDArray[np.float64]:
    """Means of `resamples` samples drawn with replacement from `values` (n,): (resamples,)."""
    sample = _vector(values)
    # Around the mean, so that single precision is enough for the spread.
    mean = sample.mean()
    spread = resampling(len(sample), resamples, seed) @ (sample - mean).astype(np.float32)
    return mean + spread.astype(np.float64) / len(sample)


@functools.lru_cache(maxsize=4)  # as many sizes of prompt sets; tens of MB each
def resampling(n: int, resamples: int, seed: int) -> NDArray[np.float32]:
    """How often each of n items is drawn in each resample: (resamples, n), rows sum to n."""
    return (
        np.random.default_rng(seed)
        .multinomial(n, np.full(n, 1 / n), size=resamples)
        .astype(np.float32)
    )


def win_rate(treated: pd.Series, control: pd.Series) -> Estimate:
    """Share in [0, 1] of common prompts where treated > control; a tie is half a win.

    The interval is Wilson's (1927, J. Am. Stat. Assoc. 22:209), which stays inside [0, 1].
    """
    first, second = treated.align(control, join="inner")
    return win_rate_interval(np.sign(first.to_numpy() - second.to_numpy()) / 2 + 0.5)


def win_rate_interval(outcomes: ArrayLike) -> Estimate:
    """The same of outcomes (n,): 1 a win, ½ a tie, 0 a loss. One outcome has no interval; several
    have one even if they are equal, since it is known how wins vary."""
    wins = _vector(outcomes)
    n, share = len(wins), float(wins.mean())
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * (share * (1 - share) / n + _Z**2 / (4 * n**2)) ** 0.5
    half = half if n > 1 else math.nan
    return Estimate(share, centre - half, centre + half, n)


def _vary(values: NDArray[np.float64]) -> bool:
    """Whether values differ by more than rounding."""
    return bool(np.ptp(values) > _ROUNDING * np.abs(values).max())


def _vector(values: ArrayLike) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) == 0:
        raise ValueError(f"expected a non-empty vector of scores, got shape {sample.shape}")
    if not np.isfinite(sample).all():
        raise ValueError("scores hold NaN or infinity")
    return sample
