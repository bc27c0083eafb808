"""Gold judge against trained reward along the training."""

from rocm_core.analysis import GOLD, Results, metric_label
from rocm_core.figures import _style as style
from rocm_core.figures._trajectories import PAIRED, counts, draw_paths, ensembles, trajectories

TITLE = "Gold judge against trained reward"
NEEDS = ("snapshots, also against hacking", "gold")
READS = ("snapshots", "scores, if any stop early")
PLACE = 0


@style.styled
def make(results: Results) -> style.Drawing:
    """One panel per training reward, another one of its contestants by sweep; each line runs from
    the base over the snapshots."""
    shown = {reward: [reward, GOLD] for reward in results.rewards}
    data = trajectories(results, shown, tricks=True)
    figure = draw_paths(
        results,
        data,
        metric=lambda reward: reward,
        label=lambda reward: f"{metric_label(reward)} (trained reward)",
        tricks=True,
    )
    caption = (
        "Each line runs from the base model (black dot) over the snapshots to the final model "
        f"(large marker): means over {counts(data)}. Bars: {PAIRED} of the final model."
        f"{style.no_interval(data['low'], 'bar')}{ensembles(results)}"
    )
    if results.methods_with_snapshots(tricks=True) != results.methods_with_snapshots():
        caption += (
            " Panels named swept: the settings against reward hacking that are listed below, beside"
            " the same methods without them, in grey; what stop_by stopped is a marker alone."
        )
    return style.Drawing(figure, data, TITLE, caption)
