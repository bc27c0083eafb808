"""Gold judge against the KL divergence to the base model along the training."""

import math

from rocm_core.analysis import GOLD, Results
from rocm_core.figures import _style as style
from rocm_core.figures._trajectories import PAIRED, counts, draw_paths, trajectories

TITLE = "Gold judge against KL divergence to the base model"
NEEDS = ("snapshots", "gold")
READS = ("snapshots",)
PLACE = 11


@style.styled
def make(results: Results) -> style.Drawing:
    """One panel per training reward; the KL axis is linear to its first tick, then logarithmic."""
    data = trajectories(results, {reward: ["kl", GOLD] for reward in results.rewards})
    figure = draw_paths(
        results, data, metric=lambda _: "kl", label=lambda _: "KL to the base (nats)"
    )
    reached = data.loc[(data["metric"] == "kl") & (data["mean"] > 0), "mean"]
    linear = 10.0 ** math.floor(math.log10(reached.min())) if len(reached) else 1.0
    for panel in figure.axes:
        panel.set_xscale("symlog", linthresh=linear, linscale=0.5)
        panel.set_xlim(left=0)
    caption = (
        "KL divergence (closed form, summed over the transitions of each sample's own trajectory) "
        "from the trained to the base model; the axis is linear from 0 to "
        f"{linear:g} and logarithmic beyond. Each line runs from the base model (black dot) over "
        "the snapshots to the final model (large marker): means over "
        f"{counts(data)}. Bars: {PAIRED} of the final model."
        f"{style.no_interval(data['low'], 'bar')}"
    )
    return style.Drawing(figure, data, TITLE, caption)
