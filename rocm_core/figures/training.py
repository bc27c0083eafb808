"""Trained reward and gold judge over training."""

from rocm_core.analysis import GOLD, Results, metric_label
from rocm_core.figures import _style as style
from rocm_core.figures._trajectories import PAIRED, counts, trajectories

TITLE = "Trained reward and gold judge over training"
NEEDS = ("snapshots",)
READS = ("snapshots",)
PLACE = 9


@style.styled
def make(results: Results) -> style.Drawing:
    """One row per training reward: the reward itself and, where there is one, the gold judge."""
    judge = [GOLD] if GOLD in results.config.metrics else []
    shown = {reward: [reward, *judge] for reward in results.rewards}
    data = trajectories(results, shown)
    figure, axes = style.panels(len(shown), 1 + len(judge), sharex="row")
    for row, (reward, metrics) in zip(axes, shown.items(), strict=True):
        for panel, metric in zip(row, metrics, strict=True):
            lines = data[(data["reward"] == reward) & (data["metric"] == metric)]
            for method in results.methods(reward):
                line = lines[lines["method"] == method]
                colour, marker = style.look(method)
                panel.plot(line["step"], line["mean"], color=colour, marker=marker, markevery=[-1])
                below, above = line["low"] - line["change"], line["high"] - line["change"]
                panel.fill_between(
                    line["step"],
                    line["mean"] + below,
                    line["mean"] + above,
                    color=colour,
                    alpha=0.18,
                    linewidth=0,
                )
            panel.set_title(f"Trained on {metric_label(reward)}")
            panel.set_ylabel(f"{metric_label(metric)}{' (trained)' if metric == reward else ''}")
            present = set(lines["method"])
            judged = results.methods_with_snapshots(reward)
            style.note_missing(panel, results, [m for m in judged if m not in present])
    for panel in axes[-1]:
        panel.set_xlabel("training step")
    style.legend(figure, style.handles(results, results.methods_with_snapshots()))
    caption = (
        f"Mean score of the snapshots over {counts(data)}; step 0 is the base model. "
        f"Bands: {PAIRED}."
    )
    if judge:
        caption += " The gold judge is 1 for a perfect picture of the caption."
    return style.Drawing(figure, data, TITLE, caption)
