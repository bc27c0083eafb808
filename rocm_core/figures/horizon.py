"""Training reward over reward queries and NFE for several horizons K of the training's chain."""

import matplotlib
import pandas as pd
from matplotlib.lines import Line2D

from rocm_core.analysis import (
    Results,
    curves,
    metric_label,
    thinned,
    training_seeds,
    what_is_paid_for,
)
from rocm_core.figures import _style as style

TITLE = "Training reward by the horizon K of the training"
NEEDS = ("horizons",)
READS = ("histories", "base rewards")
PLACE = 15
_COSTS = {"reward_queries": "reward queries", "nfe": "NFE"}


@style.styled
def make(results: Results) -> style.Drawing:
    """A row of two panels per reward and method whose `inference_steps` are swept, one line per
    horizon: over reward queries, and over NFE, of which a query costs more the longer the chain.
    """
    horizons = _horizons(results)
    steps = sorted({k for methods in horizons.values() for k in methods.values()})
    viridis = matplotlib.colormaps["viridis"]
    shades = {k: viridis(0.9 * i / max(1, len(steps) - 1)) for i, k in enumerate(steps)}
    figure, axes = style.panels(len(horizons), len(_COSTS), sharey="row")
    shown = []
    for row, ((reward, method), methods) in zip(axes, horizons.items(), strict=True):
        measured = curves(results, reward, methods)
        for name, averaged in measured.items():
            curve, k = thinned(averaged), methods[name]
            mean, deviation = curve["mean"], curve["deviation"]
            ends = mean - deviation, mean + deviation
            for panel, cost in zip(row, _COSTS, strict=True):
                style.band(panel, curve[cost], mean, *ends, color=shades[k])
            shown.append(curve.assign(reward=reward, method=method, horizon=k))
        missing = [f"K = {k}" for name, k in methods.items() if name not in measured]
        style.note(row[0], f"missing: {', '.join(missing)}" if missing else "")
        row[0].set(title=f"{results.label(method)} on {metric_label(reward)}")
        gain = "gain in " if results.config.base_rewards else ""
        row[0].set_ylabel(f"{gain}{metric_label(reward)}")
        for panel, label in zip(row, _COSTS.values(), strict=True):
            panel.set_xlabel(label)
            panel.locator_params(axis="x", nbins=4)
    style.legend(figure, [Line2D([], [], color=shades[k], label=f"K = {k}") for k in steps])
    keys = ["reward", "method", "horizon", "step", *_COSTS, "mean", "deviation", "seeds"]
    data = pd.concat(shown, ignore_index=True)[keys] if shown else pd.DataFrame(columns=keys)
    caption = (
        f"Running mean of {what_is_paid_for(results)}, when the training's chain has K steps, over"
        " as many reward queries for every line of a panel; line and band: mean and standard"
        f" deviation over {training_seeds(data['seeds'], 'band')}. A longer chain costs more NFE"
        " for each reward query."
    )
    return style.Drawing(figure, data, TITLE, caption)


def _horizons(results: Results) -> dict[tuple[str, str], dict[str, int]]:
    """{(reward, method): {its name with and without a swept horizon: K}}, K rising."""
    horizons: dict[tuple[str, str], dict[str, int]] = {
        (cell.reward, cell.method): {}
        for cell in results.cells
        if dict(cell.swept).keys() == {"inference_steps"}
    }
    for cell in sorted(results.cells, key=lambda cell: cell.settings.inference_steps):
        key = cell.reward, cell.method
        if key in horizons and dict(cell.swept).keys() <= {"inference_steps"}:
            horizons[key][cell.variant] = cell.settings.inference_steps
    return horizons
