"""How scores move over the snapshots of a training, paired with the base on the same prompts: as
numbers, and as lines of gold judge against another number, from the base to the end."""

from collections.abc import Callable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rocm_core.analysis import (
    GOLD,
    Estimate,
    Results,
    amount,
    mean_interval,
    metric_label,
    only,
)
from rocm_core.errors import UserError
from rocm_core.figures import _style as style

COLUMNS = ["reward", "method", "metric", "step", "mean", "change", "low", "high", "n", "seeds"]
PAIRED = "95 % interval of the change since step 0, paired over prompts, drawn around the mean"


def trajectories(results: Results, metrics: dict[str, list[str]]) -> pd.DataFrame:
    """Means over prompts of some metrics (by training reward) at every snapshot.

    Columns: reward, method, metric, step, mean, change (since step 0, paired over prompts) with
    its 95 % interval low..high, n (prompts), seeds (averaged within a prompt). Swept methods are
    left out. Step 0 is the base.
    """
    rows = []
    for reward in results.rewards:
        for method in results.methods(reward):
            own = only(results.snapshots, reward=reward, method=method)
            for metric in metrics[reward]:
                scores = only(own, metric=metric)
                may_lack = scores.empty and results.config.partial
                expected = results.has_snapshots(reward, method) and not may_lack
                if expected and 0 not in set(scores["step"]):
                    raise UserError(
                        f"the snapshots of {reward}/{method} in {results.root} have no {metric} at"
                        " step 0: score them again"
                    )
                table = scores.pivot_table("value", "prompt_id", "step", aggfunc="mean").dropna()
                for step in table.columns if len(table) else ():
                    change = mean_interval(table[step] - table[0])
                    if step == 0:  # the base itself, which is known to change nothing
                        change = Estimate(0.0, 0.0, 0.0, change.n)
                    row = {"reward": reward, "method": method, "metric": metric, "step": int(step)}
                    row |= vars(change) | {"change": change.mean, "mean": table[step].mean()}
                    rows.append(row | {"seeds": scores["seed"].nunique()})
    return pd.DataFrame(rows, columns=COLUMNS)


def counts(data: pd.DataFrame) -> str:
    """The n and seeds of a caption: "64 validation prompts, 1 training seed"."""
    prompts, seeds = amount(data["n"], "validation prompt"), amount(data["seeds"], "training seed")
    return f"{prompts}, {seeds}"


def draw_paths(
    results: Results, data: pd.DataFrame, metric: Callable[[str], str], label: Callable[[str], str]
) -> Figure:
    """One panel per training reward and, where there are several, per few-step generator, in which
    what is alike looks alike: `metric(reward)` on the x axis, labelled `label(reward)`.

    `data` comes from `trajectories`; the gold judge is on the y axis.
    """
    split = len(results.generators) > 1
    places: dict[tuple[str, str], list[str]] = {}
    for reward in results.rewards:
        for method in results.methods_with_snapshots(reward):
            policy = results.models[method].policy if split else ""
            places.setdefault((reward, policy), []).append(method)
    figure, panels = style.wrapped(len(places), height=2.9)
    for panel, ((reward, policy), methods) in zip(panels, places.items(), strict=True):
        paths = {method: only(data, reward=reward, method=method) for method in methods}
        for method, path in paths.items():
            if len(path):
                _draw(panel, path, results.models[method].like, metric(reward))
        style.note_missing(panel, results, methods, [m for m, path in paths.items() if len(path)])
        title = metric_label(reward)
        title = f"{title}, {policy}" if split else f"Trained on {title}"
        panel.set(title=title, xlabel=label(reward), ylabel=metric_label(GOLD))
        panel.locator_params(nbins=5)
    base = Line2D([], [], color="black", marker="o", linestyle="", label="base")
    alike = {results.models[m].like: m for m in results.methods_with_snapshots()[::-1]}
    shown = list(alike.values())[::-1]
    style.legend(figure, [base, *style.handles(results, shown, where=False)])
    return figure


def _draw(panel: Axes, data: pd.DataFrame, like: str, metric: str) -> None:
    colour, marker = style.look(like)
    x, y = (only(data, metric=name) for name in (metric, GOLD))
    panel.plot(x["mean"], y["mean"], color=colour, marker=".", markersize=4, linewidth=1.4)
    last = [[[p["change"] - p["low"]], [p["high"] - p["change"]]] for p in (x.iloc[-1], y.iloc[-1])]
    end = x["mean"].iloc[-1], y["mean"].iloc[-1]
    panel.errorbar(*end, xerr=last[0], yerr=last[1], color=colour, elinewidth=1.2, zorder=3)
    panel.plot(*end, marker, color=colour, ms=7, mec="white", mew=0.5, zorder=4)
    start = x["mean"].iloc[0], y["mean"].iloc[0]
    panel.plot(*start, "o", color="black", ms=6, zorder=5, clip_on=False)
