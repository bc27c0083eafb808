"""Preference of the reward model and of the evaluators against β (figure 4 of the paper)."""

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rocm_core.analysis import (
    GOLD,
    ROCM_NONE,
    Estimate,
    Results,
    SweepPoint,
    amount,
    evaluators,
    metric_label,
    only,
    sweep_points,
    unregularised,
    win_rate,
)
from rocm_core.figures import _style as style

TITLE = "Preference over the base model against the weight β of the divergence"
NEEDS = ("beta sweeps",)
READS = ("scores", "manifests", "votes, if any")
PLACE = 4
COLUMNS = ["reward", "method", "beta", "preference_of", "win_rate", "low", "high", "n", "seeds"]
_REWARD_MODEL, _EVALUATORS, _RATERS = "reward model", "judge", "raters"
_LOOKS: dict[str, tuple[str, str, Any]] = {
    _REWARD_MODEL: ("#d55e00", "s", "--"),
    _EVALUATORS: ("#0072b2", "o", "-"),
    _RATERS: ("#009e73", "D", ":"),
}


@style.styled
def make(results: Results) -> style.Drawing:
    """One panel per training reward, β falling from left to right: KL where it is swept, as in the
    paper, else the first divergence that is; at the right end ROCM without a divergence. Raters of
    the user study have a line where it compares these models with their base.

    `data` has `COLUMNS`; win rates are shares of prompts in [0, 1], a tie is half a win.
    """
    points = sweep_points(results, trials=False)
    order = ["rocm-kl", *(cell.method for cell in results.cells)]
    shown: dict[str, list[SweepPoint]] = {}
    families: dict[str, str] = {}
    for reward in results.rewards:
        swept = {point.family for point in points if point.reward == reward}
        if not swept:
            continue
        family = families[reward] = min(swept, key=order.index)
        own = [point for point in points if (point.reward, point.family) == (reward, family)]
        if unregularised(results, reward, family) == ROCM_NONE:
            own.append(SweepPoint(reward, ROCM_NONE, ROCM_NONE, 0.0))
        shown[reward] = own
    every = [point for own in shown.values() for point in own]
    rows = [row for point in every for row in _rows(results, point)]
    data = pd.DataFrame(rows + _said(results, every), columns=COLUMNS)
    data = data.astype({"low": float, "high": float})  # of votes without an interval they are None
    figure, panels = style.by_reward(shown, height=2.5)
    several = len({*families.values()}) > 1
    for reward, panel in panels.items():
        _draw(panel, only(data, reward=reward), shown[reward])
        if several:
            family = results.label(families[reward], short=True)
            panel.set_title(f"{metric_label(reward)}, {family}")
    evaluator = "gold judge" if GOLD in results.config.metrics else "held-out metrics"
    labels = {_REWARD_MODEL: "reward model (trained on)", _EVALUATORS: evaluator, _RATERS: "raters"}
    entries = [
        Line2D([], [], color=colour, marker=marker, linestyle=line, label=labels[whose])
        for whose, (colour, marker, line) in _LOOKS.items()
        if whose != _RATERS or whose in set(data["preference_of"])
    ]
    style.legend(figure, entries)
    preferred = "ROCM with the divergence of a panel" if several else results.label(family)
    caption = (
        f"Share of {amount(data['n'], 'validation prompt')} on which {preferred} is "
        "preferred to its base on the same noise, a tie as half a win: by the reward that it was "
        f"trained on, and by the {evaluator}. Each β is a training of its own, at the left the"
        f" largest; 0 is no divergence. Mean over {amount(data['seeds'], 'training seed')} of the"
        " win rate and of its 95 % Wilson interval. Where the reward model's line goes on rising"
        " and the judge's falls, the reward is hacked."
    )
    caption += style.no_interval(data["low"], "bar")
    voted = data[data["preference_of"] == _RATERS]
    if len(voted):
        caption += (
            f" Raters: their general preference on {amount(voted['n'], 'pair')} of the user study, "
            "with the interval of a bootstrap over raters and pairs."
        )
    return style.Drawing(figure, data, TITLE, caption)


def _rows(results: Results, point: SweepPoint) -> list[dict[str, object]]:
    """A row for the reward model and one for the evaluators; none where scores are missing."""
    rows = []
    whose_metrics = {_REWARD_MODEL: [point.reward], _EVALUATORS: evaluators(results, point.reward)}
    for whose, metrics in whose_metrics.items():
        rates = pd.DataFrame(map(vars, _win_rates(results, point, metrics)))
        if len(rates):
            row = {"reward": point.reward, "method": point.method, "beta": point.beta}
            row |= {"preference_of": whose, "seeds": results.seeds(point.reward, point.method)}
            rows.append(row | dict(rates.mean().rename({"mean": "win_rate"})))
    return rows


def _said(results: Results, wanted: list[SweepPoint]) -> list[dict[str, object]]:
    """A row for each model that raters compared with its base."""
    said = results.votes("preference")
    return [
        {
            "reward": point.reward,
            "method": point.method,
            "beta": point.beta,
            "preference_of": _RATERS,
        }
        | {"win_rate": vote["win_rate"], "low": vote["win_rate_low"], "high": vote["win_rate_high"]}
        | {"n": vote["pairs"], "seeds": 1}
        for point in wanted
        for source in results.sources(point.reward, point.method)
        for pair in [(source.name, results.base_of(point.reward, point.method))]
        if pair in said
        for vote in [said[pair]]
    ]


def _win_rates(results: Results, point: SweepPoint, metrics: list[str]) -> list[Estimate]:
    """Win rates over the base, one per metric and training seed."""
    final = results.final.set_index("prompt_id")
    base = only(final, method=results.base_of(point.reward, point.method))
    own = only(final, reward=point.reward, method=point.method)
    return [
        win_rate(scores["value"], only(base, metric=metric)["value"])
        for metric in metrics
        for _, scores in only(own, metric=metric).groupby("seed")
        if metric in set(base["metric"])
    ]


def _draw(panel: Axes, data: pd.DataFrame, wanted: list[SweepPoint]) -> None:
    known = [point.beta for point in wanted if point.beta > 0]
    nothing = min(known, default=1.0) / 3  # where β = 0 is drawn
    for whose, line in data.groupby("preference_of"):
        colour, marker, dashes = _LOOKS[str(whose)]
        for part, linestyle in ((line[line["beta"] > 0], dashes), (line[line["beta"] == 0], "")):
            reach = [part["win_rate"] - part["low"], part["high"] - part["win_rate"]]
            panel.errorbar(
                part["beta"].replace(0.0, nothing),
                part["win_rate"],
                yerr=[side.clip(lower=0) for side in reach],  # but for rounding they are
                color=colour,
                marker=marker,
                linestyle=linestyle,
                elinewidth=1.0,
            )
    panel.axhline(0.5, color="#888888", linewidth=1)
    panel.set(xscale="log", xlabel="β", ylabel="preferred to the base", ylim=(-0.03, 1.03))
    panel.invert_xaxis()
    panel.minorticks_off()
    panel.set_xticks(
        [point.beta or nothing for point in wanted if point.beta >= 0],
        [f"{point.beta:.2g}" for point in wanted if point.beta >= 0],
        rotation=45,
    )
    present = set(data["method"])
    missing = [point for point in wanted if point.method not in present]
    names = ["unknown" if math.isnan(point.beta) else f"{point.beta:g}" for point in missing]
    style.note(panel, f"missing: β = {', '.join(names)}" if names else "")
