"""Table 4: base models, and what each baseline changes against its own base."""

import pandas as pd

from rocm_core.analysis import (
    GOLD,
    Results,
    amount,
    decimals,
    is_held_out,
    mean_interval,
    metric_label,
    number,
    paired_difference,
)
from rocm_core.tables._table import Block, Cell, Table

TITLE = "Baselines against their own base models"
NEEDS = ("baselines",)
READS = ("scores",)
PLACE = 4
COLUMNS = [
    *("reward", "method", "metric", "status", "direction"),
    *("mean", "low", "high", "n", "seeds"),
]
_ARROWS = {"rises": " ↑", "falls": " ↓", "undecided": ""}


def make(results: Results) -> Table:
    """First the scores of the bases, then a block per training reward: differences of its
    baselines, the methods other than ROCM, on all metrics; the trained one counts as no evaluation.

    `data` has `COLUMNS`: status is measured, trained (measured too) or missing; reward is empty
    and direction too for a base; mean, low and high are scores there, else differences.
    """
    metrics = sorted(results.config.metrics, key=lambda name: name == GOLD)
    baselines = {
        reward: [m for m in results.methods(reward) if results.models[m].algorithm != "direct"]
        for reward in results.rewards
    }
    needed = {results.base_of(r, m) for r, methods in baselines.items() for m in methods}
    bases = [base.method for base in results.bases if base.method in needed]
    rows = [_base(results, method, metric) for method in bases for metric in metrics]
    rows += [
        _difference(results, reward, method, metric)
        for reward, methods in baselines.items()
        for method in methods
        for metric in metrics
    ]
    data = pd.DataFrame(rows, columns=COLUMNS)
    halves = (data["high"] - data["low"]).groupby(data["metric"]).median() / 2
    of_bases = _lines(results, data[data["reward"].isna()], halves)
    blocks = [Block("Scores of the base models", of_bases)]
    for reward, of_reward in data.groupby("reward", sort=False):
        heading = f"Change by training on {metric_label(str(reward))}"
        blocks.append(Block(heading, _lines(results, of_reward, halves)))
    return Table(
        TITLE, _caption(results, data), ["Model", *map(metric_label, metrics)], blocks, data
    )


def _lines(results: Results, data: pd.DataFrame, halves: pd.Series) -> list[list[Cell]]:
    return [
        [
            Cell(results.label(str(method))),
            *(_cell(entry, decimals(halves[entry["metric"]])) for _, entry in row.iterrows()),
        ]
        for method, row in data.groupby("method", sort=False)
    ]


def _base(results: Results, method: str, metric: str) -> dict[str, object]:
    entry: dict[str, object] = {"method": method, "metric": metric, "status": "missing"}
    scores = results.scores(method, metric)
    if scores.empty:
        return entry
    estimate = mean_interval(scores)
    numbers = {"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "n": estimate.n}
    return entry | {"status": "measured"} | numbers


def _difference(results: Results, reward: str, method: str, metric: str) -> dict[str, object]:
    entry: dict[str, object] = {"reward": reward, "method": method, "metric": metric}
    after = results.scores(method, metric, reward)
    before = results.scores(results.base_of(reward, method), metric)
    if after.empty or before.empty:
        return entry | {"status": "missing"}
    change = paired_difference(after, before)
    numbers = {"mean": change.mean, "low": change.low, "high": change.high, "n": change.n}
    status = "measured" if is_held_out(metric, reward) else "trained"
    seeds = results.seeds(reward, method)
    return entry | {"status": status, "direction": change.direction, "seeds": seeds} | numbers


def _cell(entry: pd.Series, digits: int) -> Cell:
    if entry["status"] == "missing":
        return Cell("missing", muted=True)
    if pd.isna(entry["reward"]):
        half = (entry["high"] - entry["low"]) / 2
        return Cell(f"{number(entry['mean'], digits)} ± {number(half, digits)}")
    mean, low, high = (number(entry[k], digits, signed=True) for k in ("mean", "low", "high"))
    text = f"{mean} [{low}, {high}]{_ARROWS[entry['direction']]}"
    return Cell(text, muted=entry["status"] == "trained")


def _caption(results: Results, data: pd.DataFrame) -> str:
    measured = data[data["status"] != "missing"]
    sentences = [
        f"Base models: mean ± half-width of the 95 % interval over "
        f"{amount(measured['n'], 'validation prompt')}. Below: differences to the own base on the "
        "same prompts and noise, with the 95 % interval of a bootstrap over prompts "
        f"({amount(measured['seeds'].dropna(), 'training seed')}, averaged within a prompt).",
        "↑ and ↓: the interval excludes 0. In italics: the metric that was trained on.",
    ]
    held_out = data[(data["status"] == "measured") & data["direction"].notna()]
    for policy in dict.fromkeys(cell.settings.policy for cell in results.cells):
        own = [
            results.base_of(r, m) == f"base-{policy}"
            for r, m in zip(held_out["reward"], held_out["method"], strict=True)
        ]
        counts = held_out[own]["direction"].value_counts()
        if len(counts):
            up, down, open_ = (counts.get(d, 0) for d in ("rises", "falls", "undecided"))
            sentences.append(
                f"Of the {counts.sum()} other differences of baselines on the {policy} policy, "
                f"{up} rise, {down} fall and {open_} are undecided."
            )
    return " ".join(sentences)
