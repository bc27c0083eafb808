"""What a configuration is assumed to find before it is run: what the embedded study found.

study.json beside this module holds the study's effects and spreads, as `_recorded` derives them, in
standard deviations over prompts, so that they suit any scorer.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rocm_core.configuration import TrainingSettings
from rocm_core.grid import is_held_out, used_scorers

RECORD = Path(__file__).parent / "study.json"
OWN = "own"  # for the name of the metric that a model was trained on


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
            "kind": kind(settings),
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

    def signal(self, backpropagates: bool) -> float:
        """The share of signal in one image's gradient."""
        return float(self.record["signal"]["direct" if backpropagates else "policy gradient"])

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


def kind(settings: TrainingSettings) -> str:
    """The sort of training that a method is, which others of its sort are likened to."""
    if not settings.backpropagates:
        return f"policy gradient, {settings.policy}"
    return "first-order" if settings.divergence == "none" else "first-order, regularised"


def _spread(line: Mapping[str, float], effect: float) -> float:
    return max(line["least"], line["share"] * abs(effect))
