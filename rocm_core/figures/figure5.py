"""Training reward against training time (figure 5 of the paper)."""

import math
from typing import Any

import numpy as np
import pandas as pd

from rocm_core.analysis import Results, Source, amount, metric_label, thinned
from rocm_core.figures import _style as style

TITLE = "Training reward against training time"
READS = ("histories, also unfinished", "manifests")
PLACE = 5

_BARS = 6  # of a line
WINDOW = 20  # iterations: the paper's
_PANELS = ("clipscore", "aesthetic", "pickscore", "hpsv2")  # the paper's A, B, C and D
_UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
COLUMNS = ["reward", "method", "iteration", "training_seconds", "mean", "deviation", "seeds"]


@style.styled
def make(results: Results) -> style.Drawing:
    """One panel per training reward, in the paper's order, one line per method.

    `data` has `COLUMNS`; training seconds are summed over the processes of a training.
    """
    order = sorted(results.rewards, key=lambda r: _PANELS.index(r) if r in _PANELS else 9)
    by_reward = {reward: _curves(results, reward) for reward in order}
    every = [curve for curves in by_reward.values() for curve in curves.values()]
    longest = max((curve["training_seconds"].max() for curve in every), default=0.0)
    unit, seconds = next((u for u in _UNITS if longest >= 2 * u[1]), _UNITS[-1])
    on_gpu = any(manifest["device"] != "cpu" for manifest in results.manifests.values())
    device = "GPU" if on_gpu else "CPU"
    figure, panels = style.by_reward(order, height=2.5)
    bars: dict[str, Any] = {"fmt": "none", "elinewidth": 1.0, "capsize": 2, "alpha": 0.8}
    for reward, panel in panels.items():
        curves = by_reward[reward]
        for place, (method, curve) in enumerate(curves.items()):
            colour, marker = style.look(method)
            x, mean = curve["training_seconds"] / seconds, curve["mean"]
            panel.plot(x, mean, color=colour, marker=marker, markevery=[-1])
            apart = max(1, len(curve) // _BARS)
            few = curve.iloc[apart * (place + 1) // (len(curves) + 1) :: apart]
            panel.errorbar(
                few["training_seconds"] / seconds,
                few["mean"],
                yerr=few["deviation"],
                **bars,
                color=colour,
            )
        style.cost_x(panel, [curve["training_seconds"] / seconds for curve in curves.values()])
        letter = f"{'ABCD'[_PANELS.index(reward)]}  " if reward in _PANELS else ""
        panel.set_title(letter + panel.get_title())
        panel.set(xlabel=f"training {unit}, {device}", ylabel=metric_label(reward))
        style.note_missing(panel, results, results.methods(reward), curves)
    style.legend(figure, style.handles(results, results.methods()))
    data = pd.concat(every, ignore_index=True) if every else pd.DataFrame(columns=COLUMNS)
    caption = (
        f"Mean reward of the batch in training over the last {WINDOW} iterations (fewer at the"
        f" start) of {amount(data['seeds'], 'training seed')}; bars: their standard deviation."
        " Batches differ between methods, and with them the bars: figure efficiency smooths all"
        f" methods over as many reward queries. Training {unit} ({device}) are without waiting and"
        " loading. Letters are those of the paper's panels. Axes are logarithmic where methods"
        f" differ more than {style.UNEVEN:g}-fold."
    )
    return style.Drawing(figure, data, TITLE, caption)


def _curves(results: Results, reward: str) -> dict[str, pd.DataFrame]:
    """`data` of each method of a reward; methods of which nothing is known yet are left out."""
    curves = {}
    for method in results.methods(reward):
        histories = [_history(results, source) for source in results.sources(reward, method)]
        seeds = [history for history in histories if history is not None]
        if seeds:
            curves[method] = _running(seeds).assign(reward=reward, method=method)[COLUMNS]
    return curves


def _history(results: Results, source: Source) -> pd.DataFrame | None:
    columns = ["step", "reward", "training_seconds"]
    frame = results.history(source, columns, unfinished=True)
    manifest = results.manifests.get(source.name)
    if frame is None or frame.empty or source.cell is None:
        return None
    processes = max(1, results.config.resources.gpus)
    if manifest is not None:
        processes = manifest.get("processes", 1)
    return frame.assign(training_seconds=frame["training_seconds"] * processes)


def _running(seeds: list[pd.DataFrame]) -> pd.DataFrame:
    """Mean and deviation over a window of all seeds together, as far as the shortest has come."""
    length = min(map(len, seeds))
    rewards, seconds = (
        np.stack([seed[name].to_numpy()[:length] for seed in seeds])
        for name in ("reward", "training_seconds")
    )
    mean, square = (
        pd.Series(values.mean(0)).rolling(WINDOW, min_periods=1).mean()
        for values in (rewards, rewards**2)
    )
    frame = pd.DataFrame(
        {"iteration": seeds[0]["step"][:length], "training_seconds": seconds.mean(0)}
    )
    deviation = (square - mean**2).clip(lower=0) ** 0.5
    if len(seeds) == 1:
        deviation[0] = math.nan  # of one batch
    return thinned(frame.assign(mean=mean, deviation=deviation, seeds=len(seeds)))
