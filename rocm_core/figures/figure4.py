"""Preference of the reward model and of the judge against β (figure 4 of the paper)."""

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rocm_core.analysis import (
    GOLD,
    Estimate,
    Results,
    Try,
    amount,
    judges,
    method_label,
    metric_label,
    tries,
    win_rate,
)
from rocm_core.figures import _style as style
from rocm_core.figures._votes import read_outcomes

TITLE = "Preference over the base model against the weight β of the divergence"
NEEDS = ("beta sweeps",)
READS = ("scores", "manifests", "votes, if any")
PLACE = 4
COLUMNS = ["reward", "method", "beta", "preference_of", "win_rate", "low", "high", "n", "seeds"]
_REWARD_MODEL, _JUDGE, _RATERS = "reward model", "judge", "raters"
_LOOKS: dict[str, tuple[str, str, Any]] = {
    _REWARD_MODEL: ("#d55e00", "s", "--"),
    _JUDGE: ("#0072b2", "o", "-"),
    _RATERS: ("#009e73", "D", ":"),
}


@style.styled
def make(results: Results) -> style.Drawing:
    """One panel a training reward, β falling from left to right: KL where it is swept, as in the
    paper, else the first divergence that is; at the right end ROCM without a divergence. Raters of
    the user study have a line where it compares these models (first) with their base (second).

    `data` has `COLUMNS`; win rates are shares of prompts in [0, 1], a tie is half a win.
    """
    found = tries(results)
    families = [one.family for one in found]
    family = "rocm-kl" if "rocm-kl" in families else families[0]
    rewards = [
        r for r in results.rewards if any((t.reward, t.family) == (r, family) for t in found)
    ]
    shown = {r: [t for t in found if (t.reward, t.family) == (r, family)] for r in rewards}
    for reward, own in shown.items():
        if "rocm-none" in results.methods(reward):
            own.append(Try(reward, "rocm-none", "rocm-none", 0.0))
    rows = [row for own in shown.values() for one in own for row in _rows(results, one)]
    if (results.root / "study" / "results.json").exists():
        rows += _said(results, [one for own in shown.values() for one in own])
    data = pd.DataFrame(rows, columns=COLUMNS)
    figure, grid = style.wrapped(len(rewards), height=2.5)
    for panel, (reward, own) in zip(grid, shown.items(), strict=True):
        _draw(panel, data[data["reward"] == reward], own)
        panel.set_title(f"Trained on {metric_label(reward)}")
    judge = "gold judge" if GOLD in results.config.metrics else "held-out metrics"
    labels = {_REWARD_MODEL: "reward model (trained on)", _JUDGE: judge, _RATERS: "raters"}
    entries = [
        Line2D([], [], color=colour, marker=marker, linestyle=line, label=labels[whose])
        for whose, (colour, marker, line) in _LOOKS.items()
        if whose != _RATERS or whose in set(data["preference_of"])
    ]
    style.legend(figure, entries)
    caption = (
        f"Share of {amount(data['n'], 'validation prompt')} on which {method_label(family)} is "
        "preferred to its base on the same noise, a tie as half a win: by the reward that it was "
        f"trained on, and by the {judge}. Each β is a training of its own, at the left the largest;"
        f" 0 is no divergence. Mean over {amount(data['seeds'], 'training seed')} of the win rate "
        "and of its 95 % Wilson interval. Where the reward model's line goes on rising and the "
        "judge's falls, the reward is hacked."
    )
    voted = data[data["preference_of"] == _RATERS]
    if len(voted):
        caption += (
            f" Raters: their general preference on {amount(voted['n'], 'pair')} of the user study, "
            "with the interval of a bootstrap over raters and pairs."
        )
    return style.Drawing(figure, data, TITLE, caption)


def _rows(results: Results, one: Try) -> list[dict[str, object]]:
    """A row for the reward model and one for the judge; none where scores are missing."""
    rows = []
    for whose, metrics in ((_REWARD_MODEL, [one.reward]), (_JUDGE, judges(results, one.reward))):
        rates = pd.DataFrame(map(vars, _win_rates(results, one, metrics)))
        if len(rates):
            row = {"reward": one.reward, "method": one.method, "beta": one.beta}
            row |= {"preference_of": whose, "seeds": results.seeds(one.reward, one.method)}
            rows.append(row | dict(rates.mean().rename({"mean": "win_rate"})))
    return rows


def _said(results: Results, wanted: list[Try]) -> list[dict[str, object]]:
    """A row for each model that raters compared with its base."""
    votes = read_outcomes(results.root)
    votes = votes[votes["question"] == "preference"]
    said = {(vote["first"], vote["second"]): vote for vote in votes.to_dict("records")}
    return [
        {"reward": one.reward, "method": one.method, "beta": one.beta, "preference_of": _RATERS}
        | {"win_rate": vote["win_rate"], "low": vote["win_rate_low"], "high": vote["win_rate_high"]}
        | {"n": vote["pairs"], "seeds": 1}
        for one in wanted
        for source in results.sources(one.reward, one.method)
        for pair in [(source.name, results.base_of(one.reward, one.method))]
        if pair in said
        for vote in [said[pair]]
    ]


def _win_rates(results: Results, one: Try, metrics: list[str]) -> list[Estimate]:
    """Win rates over the base, one a metric and training seed."""
    final = results.final.set_index("prompt_id")
    base = final[final["method"] == results.base_of(one.reward, one.method)]
    own = final[(final["reward"] == one.reward) & (final["method"] == one.method)]
    return [
        win_rate(scores["value"], base.loc[base["metric"] == metric, "value"])
        for metric in metrics
        for _, scores in own[own["metric"] == metric].groupby("seed")
        if metric in set(base["metric"])
    ]


def _draw(panel: Axes, data: pd.DataFrame, wanted: list[Try]) -> None:
    known = [one.beta for one in wanted if one.beta > 0]
    least = min(known, default=1.0)
    nothing = least / 3  # where β = 0 is drawn
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
        [one.beta or nothing for one in wanted if one.beta >= 0],
        [f"{one.beta:.2g}" for one in wanted if one.beta >= 0],
        rotation=45,
    )
    present = set(data["method"])
    missing = [one for one in wanted if one.method not in present]
    names = ["auto" if math.isnan(one.beta) else f"{one.beta:g}" for one in missing]
    style.note(panel, f"missing: β = {', '.join(names)}" if names else "")
