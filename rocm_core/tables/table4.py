"""Table 4: base models, and what each baseline changes against its own base."""

import pandas as pd

from rocm_core.analysis import (
    GOLD,
    Results,
    amount,
    metric_label,
    only,
)
from rocm_core.grid import is_held_out
from rocm_core.tables._table import (
    Block,
    Cell,
    Table,
    blocks_of,
    entry,
    interval_of,
    lines,
    measured,
    rows_of,
    with_cells,
)

TITLE = "Baselines against their own base models"
NEEDS = ("baselines",)
READS = ("scores",)
PLACE = 4
COLUMNS = [
    *("reward", "method", "metric", "status", "direction"),
    *("mean", "low", "high", "n", "seeds"),
]
_ARROWS = {"rises": " ↑", "falls": " ↓"}


def make(results: Results) -> Table:
    """First the scores of the bases, then a block per training reward: differences of its
    baselines, the methods other than ROCM, on all metrics; the trained one is not an evaluation.

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
    models: list[tuple[str | None, str]] = [(None, base) for base in bases]
    models += [(reward, method) for reward, methods in baselines.items() for method in methods]
    rows = [_row(results, *model, metric) for model in models for metric in metrics]
    data = pd.DataFrame(rows, columns=COLUMNS)
    shown = with_cells(data, [_cell(row, digits) for row, digits in rows_of(data, ["metric"])])
    blocks = [
        Block("Scores of the base models", lines(results, only(shown, reward=None))),
        *blocks_of(results, shown, "Change by training on {}"),
    ]
    return Table(
        TITLE, _caption(results, data), ["Model", *map(metric_label, metrics)], blocks, data
    )


def _row(results: Results, reward: str | None, method: str, metric: str) -> dict[str, object]:
    row: dict[str, object] = {"reward": reward, "method": method, "metric": metric}
    if reward is None:
        return row | measured(results.scores(method, metric))
    change = results.change(reward, method, metric)
    row |= measured(change, seeds=results.seeds(reward, method))
    if change is None:
        return row
    status = "measured" if is_held_out(metric, results.used(reward, method)) else "trained"
    return row | {"direction": change.direction, "status": status}


def _cell(row: pd.Series, digits: int) -> Cell:
    is_change = pd.notna(row["reward"])
    arrow = _ARROWS.get(row["direction"], "")
    return entry(row, digits, is_change=is_change, end=arrow, muted=row["status"] == "trained")


def _caption(results: Results, data: pd.DataFrame) -> str:
    measured = data[data["status"] != "missing"]
    sentences = [
        f"Base models: mean ± half-width of the 95 % interval over "
        f"{amount(measured['n'], 'validation prompt')}. Below: differences to the own base on the "
        f"same prompts and noise, with {interval_of(measured)}.",
        "↑ and ↓: the interval excludes 0. In italics: a metric that the training used.",
    ]
    held_out = data[(data["status"] == "measured") & data["direction"].notna()]
    for policy in dict.fromkeys(cell.settings.policy for cell in results.cells):
        own = [
            results.base_of(r, m) == f"base-{policy}"
            for r, m in zip(held_out["reward"], held_out["method"], strict=True)
        ]
        counts = held_out.loc[own, "direction"].value_counts()
        if len(counts):
            up, down, open_ = (counts.get(d, 0) for d in ("rises", "falls", "undecided"))
            sentences.append(
                f"Of the {counts.sum()} other differences of baselines on the {policy} policy, "
                f"{up} rise, {down} fall and {open_} are undecided."
            )
    return " ".join(sentences)
