"""Gold judge against trained reward along the training."""

from rocm_core.analysis import GOLD, Results, metric_label
from rocm_core.figures import _style as style
from rocm_core.figures._trajectories import PAIRED, counts, draw_paths, trajectories

TITLE = "Gold judge against trained reward"
NEEDS = ("snapshots", "gold")
READS = ("snapshots",)
PLACE = 0


@style.styled
def make(results: Results) -> style.Drawing:
    """One panel per training reward; each line runs from the base over the snapshots."""
    data = trajectories(results, {reward: [reward, GOLD] for reward in results.rewards})
    figure = draw_paths(
        results,
        data,
        metric=lambda reward: reward,
        label=lambda reward: f"{metric_label(reward)} (trained reward)",
    )
    caption = (
        "Each line runs from the base model (black dot) over the snapshots to the final model "
        f"(large marker): means over {counts(data)}. Bars: {PAIRED} of the final model."
        f"{style.no_interval(data['low'], 'bar')}"
    )
    return style.Drawing(figure, data, TITLE, caption)
