"""What two methods pay for the same training reward, seed by seed."""

import numpy as np
import pandas as pd

from rocm_core.analysis import Comparison, compare_seeds, reach, seed_curves, settled
from rocm_core.claims._evidence import Evidence, NotConfigured, Undecidable

_POINTS = 200


def saving(e: Evidence, reward: str, method: str, other: str, cost: str) -> Comparison:
    """Logarithm of how many times as much of `cost` the other method needs to reach a reward.

    The reward is the highest that every seed of both comes to (`settled`), in its trend.
    """
    ours, theirs = _curves(e, reward, method, other)
    goal = min(map(settled, [*ours, *theirs]))
    own, others = (
        np.log([_cost(curve, goal, cost) for curve in curves]) for curves in (ours, theirs)
    )
    return compare_seeds(others - own)


def both_learn(e: Evidence, reward: str, method: str, other: str) -> bool:
    """Whether both gain some of the reward for certain, over seeds, and one of them more than in
    its first window; other times are those of noise. True where that is not known yet."""
    try:
        arms = _curves(e, reward, method, other)
    except Undecidable:
        return True
    gains = [[curve["learned"].iloc[0] for curve in curves] for curves in arms]
    found = [compare_seeds(one).difference for one in gains]
    learned = all(one.low > 0 if one.has_interval else one.mean > 0 for one in found)
    every = [curve for curves in arms for curve in curves]
    goal = min(map(settled, every))
    return learned and any(curve["trend"].iloc[0] < goal for curve in every)


def lead(e: Evidence, reward: str, method: str, other: str, cost: str) -> Comparison:
    """Difference of the mean training reward while both spend as much, in the reward's unit: of
    the areas under their curves, from where both have begun to where the first ends."""
    ours, theirs = _curves(e, reward, method, other)
    every = [*ours, *theirs]
    start = max(curve[cost].iloc[0] for curve in every)
    end = min(curve[cost].iloc[-1] for curve in every)
    if not start < end:
        raise Undecidable(
            f"{e.label(method)} and {e.named(reward, other)} never spend as many"
            f" {cost.replace('_', ' ')}"
        )
    at = np.linspace(start, end, _POINTS)
    own, others = (
        np.array([np.interp(at, curve[cost], curve["mean"]).mean() for curve in curves])
        for curves in (ours, theirs)
    )
    return compare_seeds(own - others)


def _curves(
    e: Evidence, reward: str, method: str, other: str
) -> tuple[list[pd.DataFrame], list[pd.DataFrame]]:
    if len(e.config.seeds) < 2:
        raise NotConfigured("one training seed: costs are compared over seeds, so two are needed")
    pair = method, other
    for name in pair:
        e.require(reward, name)
    curves = seed_curves(e.results, reward, pair)
    for source in (source for name in pair for source in e.results.sources(reward, name)):
        if source.seed not in curves.get(source.method, ()):
            raise Undecidable(f"history of cell {source.name}, or what its base scores, missing")
    ours, theirs = ([*curves[name].values()] for name in pair)
    return ours, theirs


def _cost(curve: pd.DataFrame, goal: float, cost: str) -> float:
    met = reach(curve, goal)
    assert met is not None  # every seed reaches the goal
    return float(met[cost])
