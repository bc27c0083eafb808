"""Table 1: held-out scores of every method, one block per training reward."""

import pandas as pd

from rocm_core.analysis import GOLD, Results, amount, metric_label
from rocm_core.grid import is_held_out
from rocm_core.tables._table import (
    Table,
    blocks_of,
    entry,
    interval_of,
    measured,
    rows_of,
    with_cells,
)

TITLE = "Held-out scores after training on each reward"
READS = ("scores",)
PLACE = 1
TRAINED, MISSING = "trained", "missing"
COLUMNS = [
    *("reward", "method", "metric", "status", "mean", "low", "high", "n", "seeds"),
    *("change", "change_low", "change_high"),
]


def make(results: Results) -> Table:
    """Rows: the base models and the trained methods; columns: the metrics, the gold judge last.
    Below each training reward, what the methods change against their own bases.

    A metric that a training used, be it as its reward, never evaluates it (its entry reads
    "trained").
    `data` has `COLUMNS` and best; status is measured, trained or missing, n counts prompts; a base
    has no change.
    """
    metrics = sorted(results.config.metrics, key=lambda name: name == GOLD)
    data = pd.DataFrame(
        [
            _row(results, reward, method, metric)
            for reward in results.rewards
            for method in results.models_of(reward)
            for metric in metrics
        ],
        columns=COLUMNS,
    )
    best = data.groupby(["reward", "metric"])["mean"].transform("max")
    contested = [
        is_held_out(metric, results.used(reward))
        for metric, reward in zip(data["metric"], data["reward"], strict=True)
    ]
    data["best"] = pd.Series(contested, data.index) & (data["mean"] == best)
    cells = [
        entry(row, digits, bold=bool(row["best"])) for row, digits in rows_of(data, ["metric"])
    ]
    blocks = blocks_of(results, with_cells(data, cells), "Trained on {}")
    changes = data[~data["method"].isin([base.method for base in results.bases])]
    renamed = {"change": "mean", "change_low": "low", "change_high": "high"}
    changes = changes.drop(columns=[*renamed.values()]).rename(columns=renamed)
    cells = [entry(row, digits, is_change=True) for row, digits in rows_of(changes, ["metric"])]
    changed = blocks_of(results, with_cells(changes, cells), "Change by training on {}")
    blocks = [block for pair in zip(blocks, changed, strict=True) for block in pair]
    return Table(TITLE, _caption(data), ["Model", *map(metric_label, metrics)], blocks, data)


def _row(results: Results, reward: str, method: str, metric: str) -> dict[str, object]:
    row: dict[str, object] = {"reward": reward, "method": method, "metric": metric}
    if results.models[method].cell and not is_held_out(metric, results.used(reward, method)):
        return row | {"status": TRAINED}
    scores = results.scores(method, metric, reward)
    row |= measured(scores, seeds=results.seeds(reward, method))
    change = results.change(reward, method, metric) if results.models[method].cell else None
    if change:
        row |= {"change": change.mean, "change_low": change.low, "change_high": change.high}
    return row


def _caption(data: pd.DataFrame) -> str:
    measured = data[data["status"] == "measured"]
    sentences = [
        "Mean ± half-width of the 95 % interval over "
        f"{amount(measured['n'], 'validation prompt')}; trained models are averaged over "
        f"{amount(measured['seeds'], 'training seed')} within each prompt.",
        "Changes: against the own base on the same prompts and noise, with"
        f" {interval_of(measured)}.",
        "Bold: the highest mean of a column in its block.",
        '"trained": the training used the metric, which therefore does not evaluate the model.',
    ]
    if (data["status"] == MISSING).any():
        sentences.append('"missing": the cell does not exist yet (partial results).')
    return " ".join(sentences)
