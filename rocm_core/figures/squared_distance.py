"""Squared distance d² of every transition to the base model's, over training."""

import matplotlib
import pandas as pd
from matplotlib.lines import Line2D

from rocm_core.analysis import Results, amount, metric_label, only, thinned
from rocm_core.figures import _style as style

TITLE = "Distance to the base model, transition by transition"
NEEDS = ("regularised",)
READS = ("histories",)
PLACE = 12
_PREFIX = "squared_distance_"
_WINDOWS = 25  # of the running mean in a training


@style.styled
def make(results: Results) -> style.Drawing:
    """One row per method, one column per training reward, one line per transition k → k-1."""
    data = _smoothed(results)
    methods = [m for m in results.methods() if results.models[m].divergence != "none"]
    rewards = results.rewards
    transitions = sorted(data["transition"].unique(), reverse=True)
    shades = {
        k: matplotlib.colormaps["viridis"](i / len(transitions)) for i, k in enumerate(transitions)
    }
    width = max(style.WIDTH, 1.8 * len(rewards))
    figure, axes = style.panels(
        len(methods), len(rewards), height=1.2, width=width, sharex=True, sharey=True
    )
    for row, method in zip(axes, methods, strict=True):
        for panel, reward in zip(row, rewards, strict=True):
            own = only(data, reward=reward, method=method)
            for transition, line in own.groupby("transition"):
                panel.plot(line["step"], line["running_mean"], color=shades[transition], lw=1.5)
            absence = "missing" if method in results.methods(reward) else "not trained"
            label = results.label(method, short=True) + (f" ({absence})" if own.empty else "")
            panel.set_yscale("log")
            panel.minorticks_off()
            panel.text(0.03, 0.82, label, transform=panel.transAxes)
        row[0].set_ylabel("d²")
    for top, bottom, reward in zip(axes[0], axes[-1], rewards, strict=True):
        top.set_title(f"Trained on {metric_label(reward)}")
        bottom.set_xlabel("training step")
    style.legend(
        figure,
        [Line2D([], [], color=shades[k], label=f"transition {k} → {k - 1}") for k in transitions],
    )
    caption = (
        "d² = ‖μ − μ_base‖²/σ² of each stochastic transition, summed over the latent and averaged "
        f"over the training batch and {amount(data['seeds'], 'training seed')}; running mean over "
        f"1/{_WINDOWS} of the training. Columns: training rewards; rows: methods. The last "
        "transition is deterministic and has none; a training without a divergence does not "
        "compute d² and is not shown."
    )
    return style.Drawing(figure, data, TITLE, caption)


def _smoothed(results: Results) -> pd.DataFrame:
    """reward, method, transition, step, squared_distance, running_mean, seeds; sweeps left out."""
    histories = results.histories
    keys = ["reward", "method", "transition", "step"]
    columns = [name for name in histories.columns if name.startswith(_PREFIX)]
    shown = histories[histories["method"].isin(results.methods())]
    long = shown[["reward", "method", "seed", "step", *columns]].melt(
        ["reward", "method", "seed", "step"], var_name="transition", value_name="squared_distance"
    )
    long = long.dropna()
    if long.empty:
        return pd.DataFrame(columns=[*keys, "squared_distance", "running_mean", "seeds"])
    long["transition"] = long["transition"].str.removeprefix(_PREFIX).astype(int)
    data = (
        long.groupby(keys, sort=False)
        .agg(squared_distance=("squared_distance", "mean"), seeds=("seed", "nunique"))
        .reset_index()
    )
    lines = data.groupby(keys[:3], sort=False)["squared_distance"]
    data["running_mean"] = lines.transform(
        lambda values: values.rolling(max(1, len(values) // _WINDOWS), min_periods=1).mean()
    )
    by_line = data.groupby(keys[:3], sort=False)
    return pd.concat([thinned(line) for _, line in by_line], ignore_index=True)
