"""What a training reward costs, measured on the rising curve that is nearest to the rewards."""

import numpy as np
import pandas as pd
import pytest

from rocm_core.analysis import reach, rising, settled


@pytest.mark.parametrize("seed", range(5))
def test_the_rising_curve_is_the_maximum_of_minima_of_means(seed):
    """Of all means from a to b: the largest over a ≤ i of the smallest over b ≥ i."""
    values = np.random.default_rng(seed).normal(size=20).cumsum()
    expected = [
        max(min(values[a : b + 1].mean() for b in range(i, 20)) for a in range(i + 1))
        for i in range(20)
    ]
    assert rising(values) == pytest.approx(np.array(expected))


def curve(rows, noise, generator):
    """As many reward queries in any number of rows, and the same gain, to which all rise alike."""
    cost = np.arange(1, rows + 1) * 3000 / rows
    gain = 1 - np.exp(-cost / 800) + generator.normal(0, noise, rows)
    mean = pd.Series(gain).rolling(max(1, rows // 20)).mean()
    return pd.DataFrame({"reward_queries": cost, "mean": mean, "trend": rising(gain)})


def test_who_measures_fewer_prompts_is_not_faster_for_it():
    """An iteration of 32 images of four prompts scatters more than four of eight prompts each."""
    generator = np.random.default_rng(0)
    trends, running = [], []
    for _ in range(200):
        smooth, rough = curve(375, 0.2, generator), curve(94, 0.25, generator)
        goal = min(settled(smooth), settled(rough))
        costs = [reach(one, goal)["reward_queries"] for one in (smooth, rough)]
        trends.append(np.log(costs[0] / costs[1]))
        goal = min(one["mean"].max() for one in (smooth, rough))
        costs = [one["reward_queries"][one["mean"] >= goal].iloc[0] for one in (smooth, rough)]
        running.append(np.log(costs[0] / costs[1]))
    assert abs(np.mean(trends)) < 0.1 < np.mean(running)
