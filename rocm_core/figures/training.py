"""Trained reward and gold judge over training."""

from rocm_core.analysis import GOLD, Results, metric_label, only
from rocm_core.figures import _style as style
from rocm_core.figures._trajectories import PAIRED, counts, ensembles, trajectories

TITLE = "Trained reward and gold judge over training"
NEEDS = ("snapshots",)
READS = ("snapshots",)
PLACE = 0.5


@style.styled
def make(results: Results) -> style.Drawing:
    """One row per training reward: the reward itself and, where there is one, the gold judge."""
    gold = [GOLD] if GOLD in results.config.metrics else []
    shown = {reward: [reward, *gold] for reward in results.rewards}
    data = trajectories(results, shown)
    figure, axes = style.panels(len(shown), 1 + len(gold), sharex="row")
    for row, (reward, metrics) in zip(axes, shown.items(), strict=True):
        for panel, metric in zip(row, metrics, strict=True):
            lines = only(data, reward=reward, metric=metric)
            for method, line in lines.groupby("method", sort=False):
                colour, marker = style.look(str(method))
                mean, change = line["mean"], line["change"]
                ends = mean + (line["low"] - change), mean + (line["high"] - change)
                style.band(panel, line["step"], mean, *ends, color=colour, marker=marker)
            trained = " (trained)" if metric == reward else ""
            title = f"Trained on {metric_label(reward)}"
            panel.set(title=title, ylabel=f"{metric_label(metric)}{trained}")
            evaluated = results.methods_with_snapshots(reward)
            style.note_missing(panel, results, evaluated, lines["method"])
    for panel in axes[-1]:
        panel.set_xlabel("training step")
    style.legend(figure, style.handles(results, results.methods_with_snapshots()))
    caption = (
        f"Mean score of the snapshots over {counts(data)}; step 0 is the base model. "
        f"Bands: {PAIRED}.{style.no_interval(data['low'], 'band')}{ensembles(results)}"
    )
    if gold:
        caption += " The gold judge is 1 for a perfect picture of the caption."
    return style.Drawing(figure, data, TITLE, caption)
