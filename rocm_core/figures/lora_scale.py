"""Trained reward and evaluators against the strength of the adapter at inference."""

from typing import Any

import pandas as pd
from matplotlib.lines import Line2D

from rocm_core.analysis import GOLD, Results, amount, evaluators, mean_interval, only
from rocm_core.figures import _style as style
from rocm_core.grid import at_scale, lora_scales

TITLE = "Change since the base, by the strength of the adapter"
NEEDS = ("LoRA scales",)
READS = ("scores at every step",)
PLACE = 15.5
COLUMNS = ["reward", "method", "preference_of", "scale", "mean", "low", "high", "n", "seeds"]
_REWARD, _EVALUATORS = "reward model", "evaluators"
_LINES: dict[str, Any] = {_REWARD: "--", _EVALUATORS: "-"}


@style.styled
def make(results: Results) -> style.Drawing:
    """One panel per training reward and two lines per method, one point per strength."""
    rows = [
        row
        for reward in results.rewards
        for method in results.methods(reward)
        for row in _points(results, reward, method)
    ]
    data = pd.DataFrame(rows, columns=COLUMNS)
    figure, panels = style.by_reward(results.rewards, height=2.6)
    for reward, panel in panels.items():
        own, methods = only(data, reward=reward), results.methods(reward)
        panel.axhline(0, color="#888888", linewidth=1)
        panel.axvline(1, color="#888888", linewidth=1, linestyle=":")
        for (method, whose), line in own.groupby(["method", "preference_of"], sort=False):
            colour, marker = style.look(str(method))
            panel.errorbar(
                line["scale"],
                line["mean"],
                yerr=[line["mean"] - line["low"], line["high"] - line["mean"]],
                color=colour,
                marker=marker,
                linestyle=_LINES[str(whose)],
                elinewidth=1.0,
            )
        panel.set(xlabel="strength of the adapter", ylabel="change (SD of the base)")
        style.note_missing(panel, results, methods, own["method"])
    judge = "gold judge" if GOLD in results.config.metrics else "mean of the held-out scorers"
    names = {_REWARD: "trained reward", _EVALUATORS: judge}
    looks = [
        Line2D([], [], color="black", linestyle=line, label=names[whose])
        for whose, line in _LINES.items()
    ]
    style.legend(figure, [*style.handles(results, results.methods()), *looks])
    caption = (
        f"Change since the base, on the noise of the same {amount(data['n'], 'validation prompt')}"
        " and in standard deviations of the base's scores, of images made with the trained adapter"
        " multiplied by a factor: 0 is the base, 1 (dotted) what was trained. Dashed: the reward"
        f" that was trained on; solid: the {judge}. Averaged over"
        f" {amount(data['seeds'], 'training seed')} within a prompt; bars: 95 % interval over"
        f" prompts.{style.no_interval(data['low'], 'bar')}"
    )
    return style.Drawing(figure, data, TITLE, caption)


def _points(results: Results, reward: str, method: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    sources = results.sources(reward, method)
    base = [results.models[results.base_of(reward, method)]]
    steps, (first, *others) = results.sample_sets(sources[0])[0][1], lora_scales(results.config)
    drawn = {first: steps} | {scale: at_scale(steps, scale) for scale in others}
    known = {*results.config.metrics, *results.config.ensembles}
    whose_metrics = {_REWARD: {reward} & known, _EVALUATORS: evaluators(results, reward)}
    for whose, metrics in whose_metrics.items():
        for scale in sorted(drawn):
            changes = []
            for metric in metrics:
                before, _ = results.scores_on(base, metric, "validation", steps)
                after, seeds = results.scores_on(sources, metric, "validation", drawn[scale])
                changes.append(((after - before) / (before.std() or 1.0)).dropna())
            change = pd.concat(changes, axis=1).mean(axis=1) if changes else pd.Series(dtype=float)
            if len(change):
                row = {"reward": reward, "method": method, "preference_of": whose, "scale": scale}
                rows.append(row | vars(mean_interval(change)) | {"seeds": seeds})
    return rows
