"""Training reward against what it costs: the curves of RLCM, with every method beside them."""

import pandas as pd

from rocm_core.analysis import (
    COSTS,
    Results,
    compared_rewards,
    curves,
    metric_label,
    only,
    thinned,
    training_seeds,
    what_is_paid_for,
)
from rocm_core.errors import UserError
from rocm_core.figures import _style as style
from rocm_core.provenance import located

TITLE = "Training reward against its cost"
NEEDS = ("algorithms",)
READS = ("histories", "base rewards", "published curves")
PLACE = 13
_LABELS = {
    "training_seconds": "training seconds",
    "reward_queries": "reward queries",
    "nfe": "NFE",
}
# What the curves read off RLCM's figures call the rewards.
_TASKS = {
    "compression_neg_kb": "jpeg_compressibility",
    "incompression_kb": "jpeg_incompressibility",
    "laion_aesthetic": "aesthetic",
    "llava13b_alignment": "alignment",
}


@style.styled
def make(results: Results) -> style.Drawing:
    """One row per training reward on which several methods are compared: the same curves against
    training seconds, queries and NFE.

    `data` has origin (ours, or published for those of `efficiency_overlay`), reward, method, step,
    the three costs, mean, deviation and seeds.
    """
    published = _published(results)
    rewards = compared_rewards(results)
    figure, axes = style.panels(len(rewards), len(COSTS), sharey="row")
    shown = [published]
    for row, reward in zip(axes, rewards, strict=True):
        methods = results.methods(reward)
        measured = {m: thinned(curve) for m, curve in curves(results, reward, methods).items()}
        for panel, cost in zip(row, COSTS, strict=True):
            for method, curve in measured.items():
                colour, marker = style.look(method)
                mean, deviation = curve["mean"], curve["deviation"]
                ends = mean - deviation, mean + deviation
                style.band(panel, curve[cost], mean, *ends, color=colour, marker=marker)
            style.cost_x(panel, [curve[cost] for curve in measured.values()])
        gain = "gain in " if results.config.base_rewards else ""
        row[0].set_ylabel(f"{gain}{metric_label(reward)}")
        for name, curve in only(published, reward=reward).groupby("method", sort=False):
            colour, _ = style.look(str(name))
            row[1].plot(curve["reward_queries"], curve["mean"], ":", color=colour)
        style.note_missing(row[1], results, methods, measured)
        shown += [
            curve.assign(origin="ours", reward=reward, method=m) for m, curve in measured.items()
        ]
    for panel, cost in zip(axes[-1], COSTS, strict=True):
        panel.set_xlabel(_LABELS[cost])
    style.legend(figure, style.handles(results, results.methods()))
    keys = ["origin", "reward", "method", "step", *COSTS, "mean", "deviation", "seeds"]
    data = pd.concat(shown, ignore_index=True).reindex(columns=keys)
    caption = (
        f"Running mean of {what_is_paid_for(results)}, over as many reward queries for every method"
        " of a row (a twentieth of the shortest training, an iteration at least); line and band:"
        f" mean and standard deviation over {training_seeds(data['seeds'], 'band')}. Every image"
        " passed through the network forward counts as one pass. Axes are logarithmic where methods"
        f" differ more than {style.UNEVEN:g}-fold in cost."
    )
    if len(published):
        caption += " Dotted: published curves"
        caption += ", less their first value." if results.config.base_rewards else "."
    return style.Drawing(figure, data, TITLE, caption)


def _published(results: Results) -> pd.DataFrame:
    """Curves of `efficiency_overlay`: origin, reward, method, reward_queries, mean."""
    columns = ["origin", "reward", "method", "reward_queries", "mean"]
    path = results.config.efficiency_overlay
    if path is None:
        return pd.DataFrame(columns=columns)
    try:
        table = pd.read_csv(results.existing(located(path)), dtype=str, keep_default_na=False)
        table = table[table["x_axis"] == "reward_queries"]
        reward = table["task"].map(lambda task: _TASKS.get(task, task))
        numbers = table[["x", "y"]].astype(float)
        method = table["method"].str.lower()
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} (efficiency_overlay) is not a CSV file with x_axis, task, method, x, y:"
            f" {error}"
        ) from None
    published = pd.DataFrame(
        {"reward": reward, "method": method, "reward_queries": numbers["x"], "mean": numbers["y"]}
    ).assign(origin="published")
    shown = published[published["reward"].isin(results.rewards)].sort_values("reward_queries")
    if results.config.base_rewards:
        first = shown.groupby(["reward", "method"])["mean"].transform("first")
        shown = shown.assign(mean=shown["mean"] - first)
    return shown[columns]
