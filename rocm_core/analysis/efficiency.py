"""What a training reward costs: reward against seconds, reward queries and NFE."""

from collections import Counter
from collections.abc import Iterable, Sized

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rocm_core.analysis.results import Results

COSTS = ("training_seconds", "reward_queries", "nfe")
_WINDOWS = 20  # of the running mean in the shortest training
_SETTLED = 5  # a training has come to what it averages over the last fifth


def compared_rewards(results: Results) -> list[str]:
    """The rewards on which several algorithms or policies are trained; all where there is none."""
    kinds = {(source.reward, source.algorithm, source.policy) for source in results.trained}
    counts = Counter(reward for reward, *_ in kinds)
    return [r for r in results.rewards if counts[r] > 1] or results.rewards


def what_is_paid_for(results: Results) -> str:
    """What the curves show, for a caption."""
    gain = "less what the base scores on the same prompts and noise"
    return f"the training reward{f', {gain}' if results.config.base_rewards else ''}"


def curves(results: Results, reward: str, methods: Iterable[str]) -> dict[str, pd.DataFrame]:
    """The training reward of each method (`Results.gains`) as it is paid for; methods without data
    are left out.

    Columns: step, `COSTS` (so far, averaged over seeds), mean and deviation over seeds (NaN of one)
    of the running mean of the reward, the mean trend, seeds. Seeds are averaged as far as the
    shortest has come.
    """
    by_seed = seed_curves(results, reward, methods)
    return {method: _averaged([*seeds.values()]) for method, seeds in by_seed.items()}


def seed_curves(
    results: Results, reward: str, methods: Iterable[str]
) -> dict[str, dict[int, pd.DataFrame]]:
    """The same by training seed, seeds without data left out: step, `COSTS`, mean, trend, learned.

    mean: the running mean of the reward, to be looked at. Batches differ between methods, so it is
    over as many reward queries for all: a twentieth of the shortest training, an iteration at
    least. trend: the rising curve that is nearest to the rewards (`rising`), to be measured on.
    learned: in every row the mean reward over the last fifth, less that of the base, which gains
    hold already, or over the first fifth.
    """
    read = {method: _histories(results, reward, method) for method in methods}
    histories = {method: seeds for method, seeds in read.items() if seeds}
    first = {method: next(iter(seeds.values())) for method, seeds in histories.items()}
    queries = {method: _per_iteration(history) for method, history in first.items()}
    lengths = [len(history) * queries[method] for method, history in first.items()]
    shortest = min(lengths, default=0)
    window = max([*queries.values(), shortest / _WINDOWS])
    rows = {method: max(1, round(window / per)) for method, per in queries.items()}
    are_gains = results.config.base_rewards
    return {
        method: {seed: _running(own, rows[method], are_gains) for seed, own in seeds.items()}
        for method, seeds in histories.items()
    }


def _histories(results: Results, reward: str, method: str) -> dict[int, pd.DataFrame]:
    frames = {s.seed or 0: results.gains(s) for s in results.sources(reward, method)}
    return {seed: own for seed, own in frames.items() if own is not None and len(own)}


def _per_iteration(history: pd.DataFrame) -> float:
    """Reward queries of an iteration."""
    return float(history["reward_queries"].iloc[0])


def _running(history: pd.DataFrame, rows: int, are_gains: bool) -> pd.DataFrame:
    rows, reward = min(rows, len(history)), history["reward"]
    fifth = _fifth(reward)
    learned = reward.iloc[-fifth:].mean() - (0.0 if are_gains else reward.iloc[:fifth].mean())
    curve = history[["step", *COSTS]].assign(
        mean=reward.rolling(rows).mean(), trend=rising(reward), learned=learned
    )
    return curve.iloc[rows - 1 :].reset_index(drop=True)


def _fifth(rows: Sized) -> int:
    return max(1, len(rows) // _SETTLED)


def rising(values: Iterable[float]) -> NDArray[np.float64]:
    """Isotonic regression, by pooling adjacent violators (Barlow et al. 1972): of all curves that
    never fall the nearest in least squares.

    A running mean's maximum and its first passage of a level are those of its noise, which differs
    between methods: images of one prompt rise and fall together. Once a training has turned for
    good, the fit is flat, between what it had and what it has.
    """
    means: list[float] = []
    counts: list[int] = []
    for value in values:
        mean, count = float(value), 1
        while means and means[-1] >= mean:
            before, many = means.pop(), counts.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        means.append(mean)
        counts.append(count)
    return np.repeat(means, counts)


def _averaged(seeds: list[pd.DataFrame]) -> pd.DataFrame:
    length = min(map(len, seeds))
    stacked = {
        name: np.stack([seed[name].iloc[:length].to_numpy() for seed in seeds])
        for name in (*COSTS, "mean", "trend")
    }
    averages = {name: values.mean(0) for name, values in stacked.items()}
    deviation = stacked["mean"].std(0, ddof=1) if len(seeds) > 1 else np.nan
    steps = seeds[0]["step"].iloc[:length].to_numpy()
    return pd.DataFrame({"step": steps} | averages | {"deviation": deviation, "seeds": len(seeds)})


def common_reward(results: Results, curves: dict[str, pd.DataFrame]) -> tuple[float, str]:
    """The reward that the slowest algorithm comes to, and which of its methods that is.

    ROCM is one algorithm, and its fastest divergence counts: a strong one is meant to stay low.
    """
    best = {method: settled(curve) for method, curve in curves.items()}
    fastest = {
        "rocm" if results.models[method].is_rocm else method: method
        for method in sorted(best, key=lambda method: best[method])
    }
    slowest = min(fastest.values(), key=lambda method: best[method])
    return best[slowest], slowest


def settled(curve: pd.DataFrame) -> float:
    """What a training comes to: its trend over the last fifth."""
    last = curve["trend"].iloc[-_fifth(curve) :]
    return float(min(last.mean(), last.iloc[-1]))  # the mean of equal numbers may be rounded up


def reach(curve: pd.DataFrame, reward: float) -> pd.Series | None:
    """The first row of a curve whose trend is at least `reward`."""
    rows = curve[curve["trend"] >= reward]
    return rows.iloc[0] if len(rows) else None
