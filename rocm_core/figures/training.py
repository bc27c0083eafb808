"""Trained reward and gold judge over training: by its steps or, where these cost unlike, by NFE."""

import math

import pandas as pd

from rocm_core.analysis import GOLD, Results, metric_label, only
from rocm_core.figures import _style as style
from rocm_core.figures._trajectories import PAIRED, counts, ensembles, trajectories

TITLE = "Trained reward and gold judge over training"
NEEDS = ("snapshots",)
READS = ("snapshots", "histories")
PLACE = 0.5


@style.styled
def make(results: Results) -> style.Drawing:
    """One row per training reward: the reward itself and, where there is one, the gold judge."""
    gold = [GOLD] if GOLD in results.config.metrics else []
    shown = {reward: [reward, *gold] for reward in results.rewards}
    data = _with_nfe(results, trajectories(results, shown))
    sources = [results.models[method] for method in results.methods_with_snapshots()]
    unlike = len({(source.algorithm, source.policy) for source in sources}) > 1
    x = "nfe" if unlike else "step"
    figure, axes = style.panels(len(shown), 1 + len(gold), sharex="row")
    for row, (reward, metrics) in zip(axes, shown.items(), strict=True):
        for panel, metric in zip(row, metrics, strict=True):
            lines = only(data, reward=reward, metric=metric).dropna(subset=x)
            for method, line in lines.groupby("method", sort=False):
                colour, marker = style.look(str(method))
                mean, change = line["mean"], line["change"]
                ends = mean + (line["low"] - change), mean + (line["high"] - change)
                style.band(panel, line[x], mean, *ends, color=colour, marker=marker)
            trained = " (trained)" if metric == reward else ""
            title = f"Trained on {metric_label(reward)}"
            panel.set(title=title, ylabel=f"{metric_label(metric)}{trained}")
            evaluated = results.methods_with_snapshots(reward)
            style.note_missing(panel, results, evaluated, lines["method"])
    for panel in axes[-1]:
        panel.set_xlabel("NFE" if unlike else "training step")
    linear = _linear_until(data) if unlike else None
    for row in axes if unlike else []:  # whose panels share their axis
        if linear:
            row[0].set_xscale("symlog", linthresh=linear, linscale=0.5)
        else:
            row[0].locator_params(axis="x", nbins=3)
        row[0].set_xlim(left=0)
    style.legend(figure, style.handles(results, results.methods_with_snapshots()))
    caption = (
        f"Mean score of the snapshots over {counts(data)}; {'NFE' if unlike else 'step'} 0 is the"
        " base model. "
        f"Bands: {PAIRED}.{style.no_interval(data['low'], 'band')}{ensembles(results)}"
    )
    if linear:
        caption += f" The axis is linear from 0 to {linear:g} and logarithmic beyond."
    if gold:
        caption += " The gold judge is 1 for a perfect picture of the caption."
    return style.Drawing(figure, data, TITLE, caption)


def _with_nfe(results: Results, data: pd.DataFrame) -> pd.DataFrame:
    """The same with a column nfe: what training until the step took, 0 at the base."""
    data = data.assign(nfe=math.nan)
    for (reward, method), own in data.groupby(["reward", "method"]):
        spent = results.nfe(str(reward), str(method))
        if spent is not None:
            data.loc[own.index, "nfe"] = own["step"].map({0: 0.0} | spent.to_dict())
    return data


def _linear_until(data: pd.DataFrame) -> float | None:
    """Where the axis of NFE becomes logarithmic, if methods end so far apart that it does."""
    ends = data.groupby(["reward", "method"])["nfe"].max()
    if not ends.max() > style.UNEVEN * ends.min():
        return None
    return 10.0 ** math.floor(math.log10(data.loc[data["nfe"] > 0, "nfe"].min()))
