"""What rehearsals assume, derived from the published shards of a study.

All in standard deviations over prompts, as `Comparison` counts effects.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from rocm_core.analysis import Results, Source, only
from rocm_core.claims._assumed import OWN, kind
from rocm_core.claims._evidence import Evidence, Scores, Undecidable, aligned
from rocm_core.configuration import Config
from rocm_core.errors import UserError
from rocm_core.grid import images_per_iteration, is_held_out, training_work
from rocm_core.provenance import sha256_file

NOISE = "high_frequency"
_BASES = "base-consistency", "base-diffusion"
_POINTS = 8  # of the curve of a training
_NOTABLE = 0.1  # SD: of smaller effects a spread or a share says nothing


@dataclass(frozen=True)
class Change:
    """Of a metric, with its standard deviations between training seeds and between prompts."""

    effect: float
    seeds: float
    prompts: float


def derive(config: Config, folder: Path) -> dict[str, Any]:
    """The record of the study that `config` describes, from what is published of it in `folder`:
    its shards, and the ledger that was made from them. Raises `UserError` for what is missing."""
    evidence = Evidence(results := Results(config, folder))
    if lacking := set(_BASES) - {source.name for source in results.bases}:
        raise UserError(f"a record needs a study with {', '.join(sorted(lacking))}")
    try:
        changes = [*_changes(evidence)]
        bases = {metric: _apart(evidence, metric) for metric in [*config.metrics, NOISE]}
        return {
            "effects": [what | {"effect": change.effect} for what, change in changes],
            "diffusion_base": {metric: base.effect for metric, base in bases.items()},
            "seeds": _line((abs(change.effect), change.seeds) for _, change in changes),
            "prompts": _line((abs(change.effect), change.prompts) for _, change in changes),
            "policies": median(base.prompts for base in bases.values()),
            "curve": _curve(evidence),
            "slopes": {name: median(_slopes(evidence, name)) for name in ("beta", "learning_rate")},
            "signal": _signal(results),
            "votes": _votes(results),
            "seconds_per_pass": median(_seconds(results)),
            "ledger": sha256_file(results.existing(folder / "claims.json")),
        }
    except Undecidable as lack:
        raise UserError(f"{folder} is not a finished study: {lack}") from None


def _changes(evidence: Evidence) -> Iterator[tuple[dict[str, str], Change]]:
    """What each method as configured changed of each metric, with what it is known by."""
    for reward in evidence.rewards:
        for method in evidence.results.methods(reward):
            cell = evidence.results.models[method].cell
            assert cell is not None  # a method is trained
            row = {"reward": reward, "method": method, "kind": kind(cell.settings)}
            used = evidence.results.used(reward, method)
            for metric in evidence.config.metrics:
                if metric == reward or is_held_out(metric, used):
                    scores = evidence.final(reward, method, metric)
                    change = _change(evidence, scores, evidence.base(reward, method, metric))
                    yield row | {"metric": OWN if metric == reward else metric}, change
            noise = evidence.readout(reward, method, NOISE)
            base = evidence.readout(reward, evidence.results.base_of(reward, method), NOISE)
            yield row | {"metric": NOISE}, _change(evidence, noise, base)


def _change(evidence: Evidence, after: Scores, before: Scores) -> Change:
    found = evidence.effects(after, before).to_numpy()
    seeds = found.mean(1).std(ddof=1) if len(found) > 1 else math.nan
    return Change(*map(float, (found.mean(), seeds, found.mean(0).std(ddof=1))))


def _apart(evidence: Evidence, metric: str) -> Change:
    """How the diffusion base differs from the other, on the same prompts."""
    scores = evidence.readout if metric == NOISE else evidence.final
    (consistency, diffusion) = (scores("", base, metric) for base in _BASES)
    return _change(evidence, diffusion, consistency)


def _line(points: Iterable[tuple[float, float]]) -> dict[str, float]:
    """How spreads grow with effects: in proportion, but never below those of negligible effects."""
    every = list(points)
    return {
        "share": median(spread / effect for effect, spread in every if effect > _NOTABLE),
        "least": median(spread for effect, spread in every if effect <= _NOTABLE),
    }


def _curve(evidence: Evidence) -> list[float]:
    """The share of the final gain of the trained reward after equal parts of a training: the mean
    over the methods that have snapshots and gained."""
    at, shares = np.linspace(0, 1, _POINTS + 1)[1:], []
    for reward in evidence.rewards:
        for method in evidence.results.methods_with_snapshots(reward):
            steps = [0, *evidence.steps(reward, method)]
            scores = [evidence.scores(reward, (method, step), reward) for step in steps]
            gains = np.array([float(one.to_numpy().mean()) for one in scores])
            if evidence.effects(scores[-1], scores[0]).to_numpy().mean() > _NOTABLE:
                share = (gains - gains[0]) / (gains[-1] - gains[0])
                shares.append(np.interp(at, np.array(steps) / steps[-1], share))
    return np.mean(shares, axis=0).tolist()


def _slopes(evidence: Evidence, setting: str) -> Iterator[float]:
    """The powers of a setting with which gains of the trained reward grow, between neighbouring
    values, trials of searches and sweeps apart, where both gained."""
    tried: dict[tuple[Any, ...], dict[float, float]] = {}
    for source in evidence.results.trained:
        if source.swept.get(setting) and source.reward in evidence.rewards:
            assert source.cell is not None and source.reward is not None
            of = source.reward, source.family, source.cell.trial, source.seed
            tried.setdefault(of, {})[source.swept[setting]] = _gain(evidence, source)
    for gains in tried.values():
        for (low, less), (high, more) in pairwise(sorted(gains.items())):
            if min(less, more) > _NOTABLE:
                yield math.log(more / less) / math.log(high / low)


def _gain(evidence: Evidence, source: Source) -> float:
    reward = source.reward or ""
    after = evidence.final(reward, source.method, reward).loc[[source.seed]]
    treated, control = aligned(after, evidence.base(reward, source.method, reward))
    return float(evidence.effects(treated, control).to_numpy().mean())


def _signal(results: Results) -> dict[str, float]:
    """The share of signal in one image's gradient where trainings start."""
    start = only(results.gradients, weights="")
    direct = start["gradient"].isin(
        cell.variant for cell in results.cells if cell.settings.backpropagates
    )
    kinds = {"direct": start[direct], "policy gradient": start[~direct]}
    return {name: float(rows["signal"].mean()) for name, rows in kinds.items()}


def _votes(results: Results) -> dict[str, float]:
    if not results.outcomes:
        raise Undecidable("nobody has voted")
    known = [one for one in results.outcomes if one["win_rate_low"] is not None]
    widths = [(one["win_rate_high"] - one["win_rate_low"]) / 2 for one in known]
    return {
        "share": fmean(one["win_rate"] - 0.5 for one in known),
        "half_width": fmean(widths),
        "pairs": int(known[0]["pairs"]),
    }


def _seconds(results: Results) -> Iterator[float]:
    """CPU seconds of a pass of the U-Net, forward or backward, with all else in it."""
    for source in results.trained:
        assert source.cell is not None
        settings = source.cell.settings
        history = results.history(source, ["training_seconds"])
        if history is None:
            raise Undecidable(f"cell {source.name} missing")
        work = training_work(results.config, settings, rounds=False)
        images = settings.iterations * images_per_iteration(settings)
        yield float(history["training_seconds"].max()) / images / (work.forward + work.backward)
