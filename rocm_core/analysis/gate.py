"""The gate: what a short run must show before the grid's GPU hours are spent, one check a line."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rocm_core.analysis.anchors import Anchors
from rocm_core.analysis.results import Results, only
from rocm_core.analysis.sources import Source
from rocm_core.errors import UserError

_UNREGULARISED, _REGULARISED, _BASELINE = "rocm-none", "rocm-kl", "rlcm"
_PART = 10  # a training begins and ends with one of so many parts
_DIVERSITY = 0.05, 0.5  # least of a base, and least share of it that a trained model keeps
_SHARE = 0.5  # of the gain without a divergence


@dataclass(frozen=True)
class Check:
    """One thing that a run must show, with what it measured and what to do where it fails."""

    name: str
    passed: bool
    measured: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        line = f"{verdict}  {self.name}: {self.measured}; expected {self.expected}"
        return line if self.passed else f"{line}. {self.remedy}"


def checks(results: Results, anchors: Anchors) -> list[Check]:
    """All checks of a finished run, of config/pilot.yaml or a variant of it.

    Raises `UserError` where something is unfinished, where the methods to check are not there, and
    where the anchors are about images of another size.
    """
    _require(results, anchors)
    regularised = [source for source in results.trained if source.family == _REGULARISED]
    made = [
        *(check for base in results.bases for check in _scores(results, anchors, base)),
        *(_images(results, source) for source in results.everything),
        *(check for reward in results.rewards for check in _gains(results, reward)),
        *(_distance(results, anchors, source) for source in regularised),
        *_curve(results, anchors),
        *(_speed(results, anchors, s) for s in results.trained if s.family in anchors.tflop),
        *(_memory(results, anchors, source) for source in regularised),
    ]
    return made


def _require(results: Results, anchors: Anchors) -> None:
    wanted = {(reward, m) for reward in results.rewards for m in (_UNREGULARISED, _REGULARISED)}
    there = {(source.reward, source.method) for source in results.trained}
    for reward, method in sorted({*wanted, (anchors.curve.reward, _BASELINE)} - there):
        raise UserError(f"{reward}/{method} is not a cell: check the results of config/pilot.yaml")
    resolution = results.config.resolution
    if resolution != anchors.resolution:
        raise UserError(
            f"resolution is {resolution}, but the anchors are about images of {anchors.resolution}"
            " pixels: name others with --anchors"
        )
    grid = results.layout.rendered("figure", "figure2")[1]
    missing = [*map(results.root.joinpath, results.gaps), *([] if grid.exists() else [grid])]
    if missing:
        more = f" and {len(missing) - 1} more are" if missing[1:] else " is"
        raise UserError(
            f"{missing[0]}{more} missing: run `snakemake all --cores 4` with this --configfile"
            " first"
        )


def _scores(results: Results, anchors: Anchors, base: Source) -> Iterator[Check]:
    """The metrics' scale, by a base model's scores."""
    means = {m: float(results.scores(base.method, m).mean()) for m in results.config.metrics}
    remedy = "Look at the images, and check the metric's weights and preprocessing"
    for metric, anchor in anchors.scores.items():
        if metric in means:
            yield _near(
                f"{metric} of {base.name}", means[metric], anchor.centre, anchor.mean, remedy
            )
    for one in anchors.differences:
        if {one.more, one.less} <= means.keys():
            name, measured = f"{one.more} less {one.less} of", means[one.more] - means[one.less]
            remedy = "See whether each version has its own weights"
            yield _near(f"{name} {base.name}", measured, one.centre, one.mean, remedy)


def _near(name: str, measured: float, centre: float, reach: float, remedy: str) -> Check:
    passed = abs(measured - centre) <= reach
    return Check(name, passed, f"{measured:.4g}", f"{centre:.4g} ± {reach:.4g}", remedy)


def _images(results: Results, source: Source) -> Check:
    """Whether images of different prompts differ."""
    read = only(results.readouts, metric="pixel_diversity", method=source.method)
    own = float(only(read, reward=source.reward)["value"].mean())
    least, share = _DIVERSITY
    if source.cell:
        base = results.base_of(str(source.reward), source.method)
        before = only(results.readouts, metric="pixel_diversity", method=base)["value"].mean()
        least = max(least, share * float(before))
    return Check(
        f"images of {source.name} differ between prompts",
        own >= least,
        f"mean distance {own:.3f}",
        f"at least {least:.3f}",
        "Look at the sample grid, figures/figure2.png: images may be blank or all alike",
    )


def _gains(results: Results, reward: str) -> Iterator[Check]:
    """What training gains of its reward, on the validation prompts."""
    free, held = (results.change(reward, m, reward) for m in (_UNREGULARISED, _REGULARISED))
    assert free and held  # `_require` has seen to it
    steps = len(_history(results, results.sources(reward, _UNREGULARISED)[0]))
    yield Check(
        f"{reward}/{_UNREGULARISED} rises in {steps} steps",
        free.low > 0,
        f"{free.mean:+.4g} [{free.low:+.4g}, {free.high:+.4g}]",
        "an interval above 0",
        "Look at history.csv: the gradient does not reach the LoRA, or learning_rate is wrong",
    )
    least = _SHARE * max(free.mean, 0.0)
    yield Check(
        f"{reward}/{_REGULARISED} rises with it",
        held.mean >= least and held.mean > 0,
        f"{held.mean:+.4g}",
        f"at least {least:+.4g}, half of the gain without a divergence",
        "β is too large, so the grid would not move either: lower it",
    )


def _distance(results: Results, anchors: Anchors, source: Source) -> Check:
    """d² per dimension of every step with noise, at the end of a training."""
    history = _history(results, source)
    names = [name for name in history if str(name).startswith("squared_distance_")]
    steps = _last(history)[names].mean()
    floor = results.manifests[source.name].get("squared_distance_floor") or 0.0
    most = anchors.squared_distance
    share = float(steps.iloc[-1] / steps.sum()) if steps.sum() > 0 else 0.0
    return Check(
        f"d² per dimension of {source.name}",
        bool(len(steps) and (steps > floor).all() and (steps < most).all()),
        f"{steps.min():.3g} to {steps.max():.3g} per step, {share:.0%} of it in the last",
        f"every step above {floor:.3g}, what rounding leaves, and below {most:g}",
        "Below: the reference is not a separate model, or nothing was learned. Above: it has left"
        " its base, or the distance is not reduced by `mean`",
    )


def _curve(results: Results, anchors: Anchors) -> Iterator[Check]:
    """RLCM beside its published training."""
    curve = anchors.curve
    for source in results.sources(curve.reward, _BASELINE):
        history = _history(results, source)
        ends = [part[["reward_queries", "mean_reward"]].mean() for part in _ends(history)]
        (first, start), (last, end) = ((float(q), float(r)) for q, r in ends)
        remedy = "See whether base model, guidance scale and prompts are the release's"
        name = f"{source.name} starts where the published curve does"
        yield _near(name, start, curve.at(first), curve.level, remedy)
        least = curve.gain * (curve.at(last) - curve.at(first))
        yield Check(
            f"{source.name} rises as the published curve does",
            end - start >= least,
            f"{end - start:+.3f} from {first:.0f} to {last:.0f} reward queries",
            f"at least {least:+.3f}, {curve.gain:.0%} of the published gain",
            "Hold its settings against docs/releases.csv, and see whether ratios are clipped",
        )


def _speed(results: Results, anchors: Anchors, source: Source) -> Check:
    """What a training's images take, as the arithmetic that a GPU does for them."""
    history = _history(results, source)
    later = history[["training_seconds", "reward_queries"]].iloc[len(history) // _PART :]
    seconds = float(np.divide(*(later.iloc[-1] - later.iloc[0])))
    rate = anchors.tflop[source.family] / seconds if seconds > 0 else float("inf")
    least, most = anchors.tflop_per_second
    return Check(
        f"seconds per image of {source.name}",
        least <= rate <= most,
        f"{seconds:.3g} s, {rate:.3g} TFLOP/s",
        f"{least:g} to {most:g} TFLOP/s",
        "Slower: the GPU is shared, or the grid costs more than docs/reproducing.md says. Faster:"
        " passes are left out",
    )


def _memory(results: Results, anchors: Anchors, source: Source) -> Check:
    peak = float(_history(results, source)["peak_memory_gib"].max())
    least, most = anchors.memory_gib
    return Check(
        f"memory of {source.name}",
        least <= peak <= most,
        f"{peak:.3g} GiB",
        f"{least:g} to {most:g} GiB",
        "More: activation checkpointing does not work. Less: a model is not on the GPU",
    )


def _history(results: Results, source: Source) -> pd.DataFrame:
    keys = {"reward": source.reward, "method": source.method, "seed": source.seed}
    return only(results.histories, **keys).dropna(axis="columns", how="all")


def _ends(history: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return history.head(max(1, len(history) // _PART)), _last(history)


def _last(history: pd.DataFrame) -> pd.DataFrame:
    return history.tail(max(1, len(history) // _PART))
