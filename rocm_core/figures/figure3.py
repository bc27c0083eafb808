"""What the raters of the user study preferred (figure 3 of the paper)."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from rocm_core.analysis import Results, Source, amount, metric_label
from rocm_core.errors import UserError
from rocm_core.figures import _style as style

TITLE = "What the raters of the user study preferred"
NEEDS = ("votes",)
READS = ("votes",)
PLACE = 3
_QUESTIONS = {
    "appeal": "visual appeal",
    "alignment": "prompt alignment",
    "preference": "general preference",
}
_TIES = "#dddddd"
_PARTS = ("wins", "ties", "losses")


@style.styled
def make(results: Results) -> style.Drawing:
    """One panel per comparison, one bar per question: shares of wins, ties and losses of the first
    model, and its win rate with the interval. A comparison of the configuration without votes is
    named as missing. Raises `UserError` before votes are aggregated."""
    if results.outcomes is None:
        raise UserError(f"{results.layout.study.results} does not exist: aggregate the votes first")
    data = pd.DataFrame(results.outcomes)
    ends = ["win_rate_low", "win_rate_high"]
    data[ends] = data[ends].astype(float)  # None, where the votes have no interval
    voted = {tuple(pair): rows for pair, rows in data.groupby(["first", "second"], sort=False)}
    models = {source.name: source for source in results.bases + results.trained}
    study = results.config.study
    comparisons = results.comparisons or tuple(voted)
    figure, axes = style.panels(len(comparisons), 1, height=1.75, sharex=True)
    for (panel,), pair in zip(axes, comparisons, strict=True):
        if pair in voted:
            rows = voted[pair].reset_index(drop=True)
            _draw(panel, results, rows, [models[str(name)] for name in pair])
        else:
            panel.set(yticks=[], title=f"{pair[0]} against {pair[1]}")
            panel.text(0.5, 0.5, "missing: no votes yet", ha="center", va="center")
    axes[-1][0].set_xlabel("share of votes")
    agreement = data["agreement"].dropna()
    alphas = f"{agreement.min():.2f} to {agreement.max():.2f}".replace("-", "−")
    rater = "simulated rater" if results.simulated else "rater"
    caption = (
        f"Shares of the answers of {amount(data['raters'], rater)} on"
        f" {amount(data['pairs'], 'blind pair')} of images a comparison, in random order and on"
        " random sides: votes for the first model (left, coloured), ties (grey), votes for the"
        " second (right). Black: win rate of the first model with a tie as half a win, and its"
        " 95 % interval from a bootstrap over raters and pairs."
    )
    if study and [*study.comparisons] != results.comparisons:
        caption += (
            " The model of ROCM is, of each reward, the one that held-out scorers preferred on one"
            " half of the validation prompts, none of which was shown."
        )
    if results.simulated:
        caption += " These are the gold judge with noise, and no people."
    caption += style.no_interval(data["win_rate_low"], "bar")
    if len(agreement):
        caption += f" Krippendorff's alpha of the raters: {alphas}."
    return style.Drawing(figure, data, TITLE, caption)


def _draw(panel: Axes, results: Results, rows: pd.DataFrame, pair: Sequence[Source]) -> None:
    (one, _), (other, _) = (style.look(source.family) for source in pair)
    rewards = dict.fromkeys(metric_label(source.reward) for source in pair if source.reward)
    looks: list[dict[str, Any]] = [
        {"color": one, "alpha": 0.75},
        {"color": _TIES},
        {"color": other, "alpha": 0.45},
    ]
    left = pd.Series(0.0, index=rows.index)
    for part, look in zip(_PARTS, looks, strict=True):
        share = rows[part] / rows["votes"]
        panel.barh(rows.index, share, left=left, height=0.62, **look)
        left = left + share
    rate = rows["win_rate"]
    reach = [rate - rows["win_rate_low"], rows["win_rate_high"] - rate]
    panel.errorbar(rate, rows.index, xerr=reach, fmt="o", color="black", capsize=3, linewidth=1.4)
    panel.axvline(0.5, color="black", linewidth=0.8, linestyle=":")
    panel.set(xlim=(0, 1))
    panel.set_yticks(rows.index, [_QUESTIONS[question] for question in rows["question"]])
    panel.invert_yaxis()
    panel.grid(visible=False, axis="y")
    labels = [results.label(pair[0].method), "tie", results.label(pair[1].method)]
    panel.legend(
        handles=[Patch(label=label, **look) for label, look in zip(labels, looks, strict=True)],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=3,
        title=f"trained on {' and '.join(rewards)}" if rewards else None,
    )
