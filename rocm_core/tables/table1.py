"""Table 1: held-out scores of every method, one block per training reward."""

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
)
from rocm_core.tables._table import Block, Cell, Table

TITLE = "Held-out scores after training on each reward"
READS = ("scores",)
PLACE = 1
TRAINED, MISSING = "trained", "missing"
COLUMNS = ["reward", "method", "metric", "status", "mean", "low", "high", "n", "seeds"]


def make(results: Results) -> Table:
    """Rows: the base models and the trained methods; columns: the metrics, the gold judge last.

    The metric that a model was trained on never evaluates it (its entry reads "trained").
    `data` has `COLUMNS` and best; status is measured, trained or missing, n counts prompts.
    """
    metrics = sorted(results.config.metrics, key=lambda name: name == GOLD)
    data = pd.DataFrame(
        [
            _entry(results, reward, method, metric)
            for reward in results.rewards
            for method in _rows(results, reward)
            for metric in metrics
        ],
        columns=COLUMNS,
    )
    best = data.groupby(["reward", "metric"])["mean"].transform("max")
    contested = map(is_held_out, data["metric"], data["reward"])
    data["best"] = pd.Series(contested, data.index) & (data["mean"] == best)
    halves = (data["high"] - data["low"]).groupby(data["metric"]).median() / 2
    blocks = []
    for reward, of_reward in data.groupby("reward", sort=False):
        block = Block(f"Trained on {metric_label(str(reward))}")
        for method, row in of_reward.groupby("method", sort=False):
            cells = [_cell(entry, decimals(halves[entry["metric"]])) for _, entry in row.iterrows()]
            block.rows.append([Cell(results.label(str(method))), *cells])
        blocks.append(block)
    header = ["Model", *map(metric_label, metrics)]
    return Table(TITLE, _caption(data), header, blocks, data)


def _rows(results: Results, reward: str) -> list[str]:
    methods = results.methods(reward)
    bases = dict.fromkeys(results.base_of(reward, method) for method in methods)
    return [*bases, *methods]


def _entry(results: Results, reward: str, method: str, metric: str) -> dict[str, object]:
    is_base = results.models[method].cell is None
    entry: dict[str, object] = {"reward": reward, "method": method, "metric": metric}
    if not (is_base or is_held_out(metric, reward)):
        return entry | {"status": TRAINED}
    scores = results.scores(method, metric, None if is_base else reward)
    if scores.empty:
        return entry | {"status": MISSING}
    estimate = mean_interval(scores)
    seeds = None if is_base else results.seeds(reward, method)
    numbers = {"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "n": estimate.n}
    return entry | {"status": "measured"} | numbers | {"seeds": seeds}


def _cell(entry: pd.Series, digits: int) -> Cell:
    if entry["status"] != "measured":
        return Cell(entry["status"], muted=True)
    half = (entry["high"] - entry["low"]) / 2
    text = f"{number(entry['mean'], digits)} ± {number(half, digits)}"
    return Cell(text, bold=bool(entry["best"]))


def _caption(data: pd.DataFrame) -> str:
    measured = data[data["status"] == "measured"]
    sentences = [
        "Mean ± half-width of the 95 % interval over "
        f"{amount(measured['n'], 'validation prompt')}; trained models are averaged over "
        f"{amount(measured['seeds'], 'training seed')} within each prompt.",
        "Bold: the highest mean of a column in its block.",
        '"trained": the metric was the training reward and does not evaluate the model.',
    ]
    if (data["status"] == MISSING).any():
        sentences.append('"missing": the cell does not exist yet (partial results).')
    return " ".join(sentences)
