"""Panels of gold judge against another number, one line per method, from the base to the end."""

from collections.abc import Callable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rocm_core.analysis import GOLD, Results, metric_label, only
from rocm_core.figures import _style as style


def draw_paths(
    results: Results, data: pd.DataFrame, metric: Callable[[str], str], label: Callable[[str], str]
) -> Figure:
    """One panel per training reward: `metric(reward)` on the x axis, labelled `label(reward)`.

    `data` comes from `trajectories`; the gold judge is on the y axis.
    """
    figure, panels = style.by_reward(results.rewards, height=2.9)
    for reward, panel in panels.items():
        own = only(data, reward=reward)
        for method, path in own.groupby("method", sort=False):
            _draw(panel, path, str(method), metric(reward))
        style.note_missing(panel, results, results.methods_with_snapshots(reward), own["method"])
        panel.set(xlabel=label(reward), ylabel=metric_label(GOLD))
        panel.locator_params(nbins=5)
    base = Line2D([], [], color="black", marker="o", linestyle="", label="base")
    style.legend(figure, [base, *style.handles(results, results.methods_with_snapshots())])
    return figure


def _draw(panel: Axes, data: pd.DataFrame, method: str, metric: str) -> None:
    colour, marker = style.look(method)
    x, y = (only(data, metric=name) for name in (metric, GOLD))
    panel.plot(x["mean"], y["mean"], color=colour, marker=".", markersize=4, linewidth=1.4)
    last = [[[p["change"] - p["low"]], [p["high"] - p["change"]]] for p in (x.iloc[-1], y.iloc[-1])]
    end = x["mean"].iloc[-1], y["mean"].iloc[-1]
    panel.errorbar(*end, xerr=last[0], yerr=last[1], color=colour, elinewidth=1.2, zorder=3)
    panel.plot(*end, marker, color=colour, ms=7, mec="white", mew=0.5, zorder=4)
    start = x["mean"].iloc[0], y["mean"].iloc[0]
    panel.plot(*start, "o", color="black", ms=6, zorder=5, clip_on=False)
