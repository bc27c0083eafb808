"""What a configuration is assumed to find before it is run: what the embedded study found.

study.json beside this module holds the study's effects and spreads. `derive` takes them from the
published tables and verdicts, in standard deviations over prompts, so that they suit any scorer.
"""

import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from rocm_core.analysis import only
from rocm_core.configuration import Config, TrainingSettings
from rocm_core.errors import UserError
from rocm_core.grid import (
    images_per_iteration,
    is_held_out,
    make_grid,
    training_work,
    used_scorers,
)
from rocm_core.provenance import CSV_OPTIONS, sha256_file

RECORD = Path(__file__).parent / "study.json"
_STUDY, _SEARCH = "earlier-world", "earlier-search"  # below docs/results
OWN = "own"  # for the name of the metric that a model was trained on
NOISE = "high_frequency"
_BASES = {"consistency": "base-consistency", "diffusion": "base-diffusion"}
_POINTS = 8  # of the curve of a training
_NOTABLE = 0.1  # SD: of smaller effects a spread says nothing in proportion
_Z, _T, _SEEDS = 1.960, 4.303, 3  # 95 % quantiles: normal, and Student's of the study's seeds


class Assumed:
    """The record, asked for one model at a time."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record
        self._found: dict[tuple[str, ...], float] = {}

    def effect(self, reward: str, method: str, settings: TrainingSettings, metric: str) -> float:
        """What a training changes of a metric, in standard deviations over prompts: the mean over
        the study's trainings that are most alike."""
        like = {
            "reward": reward,
            "method": method,
            "kind": _kind(settings),
            "metric": metric if is_held_out(metric, used_scorers(settings)) else OWN,
        }
        if (key := tuple(like.values())) not in self._found:
            self._found[key] = self._most_alike(like)
        return self._found[key]

    def _most_alike(self, like: Mapping[str, str]) -> float:
        rows: list[dict[str, Any]] = self.record["effects"]
        for keys in (
            ("reward", "method", "metric"),
            ("method", "metric"),
            ("kind", "metric"),
            ("kind",),  # of a metric that the study lacks
            (),  # of another package's kind of training
        ):
            alike = [row["effect"] for row in rows if all(row[key] == like[key] for key in keys)]
            if alike:
                break
        return fmean(alike)

    def seeds(self, effect: float) -> float:
        """Standard deviation of an effect between training seeds."""
        return _spread(self.record["seeds"], effect)

    def prompts(self, effect: float) -> float:
        """Standard deviation of an effect between prompts."""
        return _spread(self.record["prompts"], effect)

    def progress(self, shares: ArrayLike) -> NDArray[np.float64]:
        """The share of the final effect after each share of the training."""
        curve = [0.0, *self.record["curve"]]
        return np.interp(np.asarray(shares, float), np.linspace(0, 1, len(curve)), curve)


@functools.cache
def assumed() -> Assumed:
    """The record beside this module."""
    return Assumed(json.loads(RECORD.read_text(encoding="utf-8")))


def seconds_per_pass() -> float:
    """CPU seconds of one pass of the embedded world's U-Net, and of all that goes with it."""
    return float(assumed().record["seconds_per_pass"])


def _kind(settings: TrainingSettings) -> str:
    if not settings.backpropagates:
        return f"policy gradient, {settings.policy}"
    return "first-order" if settings.divergence == "none" else "first-order, regularised"


def _spread(line: Mapping[str, float], effect: float) -> float:
    return max(line["least"], line["share"] * abs(effect))


# --- from the published results

Levels = dict[tuple[str, str, str], tuple[float, float]]


def derive(results: Path, config: Config) -> dict[str, Any]:
    """The record of the study that `config` describes, from its files below `results`, and those of
    the search for its learning rates. Raises `UserError` for a file that is missing."""
    used: dict[str, str] = {}

    def path(name: str) -> Path:
        if not (results / name).is_file():
            raise UserError(f"{results / name} is missing: publish the study's results there")
        used[name] = sha256_file(results / name)
        return results / name

    def read(name: str) -> pd.DataFrame:
        return pd.read_csv(path(f"{name}.csv"), **CSV_OPTIONS)

    claims = json.loads(path(f"{_STUDY}/claims.json").read_text(encoding="utf-8"))["claims"]
    parts = {claim["id"]: claim["parts"] for claim in claims}
    noise = read(f"{_STUDY}/tables/readouts").rename(columns={"readout": "metric"})
    levels = _levels(pd.concat([read(f"{_STUDY}/tables/table1"), only(noise, metric=NOISE)]))
    changes, curves = read(f"{_STUDY}/tables/table4"), read(f"{_STUDY}/figures/training")
    rates = [read(f"{name}/tables/sweep") for name in (_STUDY, _SEARCH)]
    settings = {(c.reward, c.method): c.settings for c in make_grid(config) if not c.swept}
    votes = parts["12"]
    return {
        "effects": list(_effects(levels, changes, curves, settings)),
        "diffusion_base": {
            metric: _standardised(level, levels[reward, _BASES["consistency"], metric])
            for (reward, method, metric), level in levels.items()
            if method == _BASES["diffusion"]
        },
        "seeds": _line(map(_between_seeds, [*parts["6"], *parts["13"]])),
        "prompts": _line(_between_prompts(changes, levels)),
        "policies": min(_half(part["effect"]) / _Z * part["prompts"] ** 0.5 for part in parts["1"]),
        "curve": _curve(curves),
        "slopes": {
            "beta": median(_slopes(_betas(read(f"{_STUDY}/tables/table2")))),
            "learning_rate": median(s for table in rates for s in _slopes(_rates(table))),
        },
        "votes": {
            "share": fmean(part["difference"]["mean"] for part in votes),
            "half_width": fmean(_half(part["difference"]) for part in votes),
            "pairs": votes[0]["prompts"],
        },
        "seconds_per_pass": _seconds(read(f"{_STUDY}/tables/costs"), config, settings),
        "files": used,
    }


def _levels(table: pd.DataFrame) -> Levels:
    """{(reward, method, metric): (mean, standard deviation over prompts)}."""
    return {
        (row["reward"], row["method"], row["metric"]): (row["mean"], deviation)
        for row in table.to_dict("records")
        if (deviation := _half(row) / _Z * row["n"] ** 0.5) > 0  # withheld entries have none
    }


def _standardised(after: tuple[float, float], before: tuple[float, float]) -> float:
    """Difference of two levels in units of their mean variance, as `Comparison` has effects."""
    return (after[0] - before[0]) / ((after[1] ** 2 + before[1] ** 2) / 2) ** 0.5


def _effects(
    levels: Levels,
    changes: pd.DataFrame,
    curves: pd.DataFrame,
    settings: Mapping[tuple[str, str], TrainingSettings],
) -> Iterator[dict[str, Any]]:
    for (reward, method), own in settings.items():
        row = {"reward": reward, "method": method, "kind": _kind(own)}
        base = _BASES[own.policy]
        for (trained_on, name, metric), level in levels.items():
            if (trained_on, name) == (reward, method):
                effect = _standardised(level, levels[reward, base, metric])
                yield row | {"metric": metric, "effect": effect}
        # Table 1 withholds the trained reward: table 4 has the baselines', snapshots the others'.
        where = {"reward": reward, "method": method, "metric": reward}
        change = only(curves, **where)["change"].tolist() or only(changes, **where)["mean"].tolist()
        own_base = next(v for (_, m, k), v in levels.items() if (m, k) == (base, reward))
        yield row | {"metric": OWN, "effect": change[-1] / own_base[1]}


def _half(estimate: Mapping[Any, float]) -> float:
    return (estimate["high"] - estimate["low"]) / 2


def _between_seeds(part: Mapping[str, Any]) -> tuple[float, float]:
    """(effect, its spread between seeds), as if all of the interval were owed to these."""
    difference, effect = part["difference"], part["effect"]["mean"]
    unit = difference["mean"] / effect
    return abs(effect), _half(difference) / unit / _T * _SEEDS**0.5


def _between_prompts(changes: pd.DataFrame, levels: Levels) -> Iterator[tuple[float, float]]:
    """(effect, its spread between prompts) of the baselines."""
    bases = {key[1:]: sd for key, (_, sd) in levels.items() if key[1] in _BASES.values()}
    for row in changes[changes["direction"].notna()].to_dict("records"):
        unit = bases[
            _BASES["consistency" if row["method"] == "rlcm" else "diffusion"], row["metric"]
        ]
        yield abs(row["mean"]) / unit, _half(row) / unit / _Z * row["n"] ** 0.5


def _line(points: Iterable[tuple[float, float]]) -> dict[str, float]:
    """How spreads grow with effects: in proportion, but never below those of negligible effects."""
    every = list(points)
    return {
        "share": median(spread / effect for effect, spread in every if effect > _NOTABLE),
        "least": median(spread for effect, spread in every if effect <= _NOTABLE),
    }


def _curve(curves: pd.DataFrame) -> list[float]:
    """The share of the final change of the trained reward, after equal parts of a training."""
    own = curves[curves["reward"] == curves["metric"]]
    at = np.linspace(0, 1, _POINTS + 1)[1:]
    shares = [
        np.interp(at, part["step"] / part["step"].max(), part["change"] / part["change"].iloc[-1])
        for _, part in own.groupby(["reward", "method"])
    ]
    return np.mean(shares, axis=0).tolist()


Point = tuple[str, float, float]


def _betas(table: pd.DataFrame) -> Iterator[Point]:
    """(what was trained, β, what that changed of its reward)."""
    for row in table.to_dict("records"):
        yield f"{row['reward']}/{row['divergence']}", row["beta"], row["trained"]


def _rates(table: pd.DataFrame) -> Iterator[Point]:
    """The same of swept learning rates."""
    for row in table[table["reward"] == table["metric"]].to_dict("records"):
        method, _, rate = row["method"].partition("--learning_rate-")
        if rate and row["change"] > 0:
            yield f"{row['reward']}/{method}", float(rate), row["change"]


def _slopes(points: Iterable[Point]) -> Iterator[float]:
    """The powers of a setting with which gains grow, between neighbouring values."""
    for one, other in pairwise(sorted(points)):
        if one[0] == other[0]:
            yield math.log(other[2] / one[2]) / math.log(other[1] / one[1])


def _seconds(
    costs: pd.DataFrame, config: Config, settings: Mapping[tuple[str, str], TrainingSettings]
) -> float:
    """CPU seconds of a pass of the embedded world's U-Net, forward or backward, all else in it."""
    seconds = []
    for row in costs.to_dict("records"):
        own = settings[row["reward"], row["method"]]
        work = training_work(config, own, rounds=False)
        images = own.iterations * images_per_iteration(own)
        seconds.append(row["total_training_seconds"] / images / (work.forward + work.backward))
    return median(seconds)
