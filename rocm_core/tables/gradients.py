"""How far the gradients of single images scatter, by each method at the same weights."""

from typing import Any

import pandas as pd

from rocm_core.analysis import Results, metric_label, number, only, training_seeds
from rocm_core.tables._table import Block, Cell, Table

TITLE = "Signal in the gradient of one image"
NEEDS = ("gradients",)
READS = ("gradients",)
PLACE = 8
COLUMNS = [
    *("reward", "weights", "gradient", "status", "signal", "deviation"),
    *("squared_mean", "variance", "images", "seeds"),
]


def make(results: Results) -> Table:
    """Blocks of each reward, where all trainings start and where each ends, a row per method that
    takes the gradient.

    `data` has `COLUMNS`: weights as in `Results.gradients`; status, measured, missing or, where
    gradients are, zero; signal, the mean over seeds of the share there; deviation, its standard
    deviation, empty for one.
    """
    rows, blocks = [], []
    for reward in results.rewards:
        compared = results.compared_gradients(reward)
        for weights in ["", *compared] if compared else []:
            own = [_row(results, reward=reward, weights=weights, gradient=g) for g in compared]
            rows += own
            where = f"end of {results.label(weights)}" if weights else "start of every training"
            lines = [[Cell(results.label(row["gradient"])), _cell(row)] for row in own]
            blocks.append(Block(f"{metric_label(reward)}, {where}", lines))
    data = pd.DataFrame(rows, columns=COLUMNS)
    seeds = training_seeds(data["seeds"], "deviation")
    caption = (
        "The squared mean of a gradient as a share of its mean square, of one image: 100 % without"
        f" noise, about 0 where it drowns. Mean ± standard deviation over {seeds}; all methods of a"
        " block take theirs on the same images at the same weights. In brackets: how many images'"
        " mean has as much signal as noise."
    )
    if "zero" in set(data["status"]):
        caption += " Zero: all gradients vanish, and there is no share."
    return Table(TITLE, caption, ["Gradient by", "Signal"], blocks, data)


def _row(results: Results, **where: str) -> dict[str, Any]:
    measured = only(results.gradients, **where)
    found = measured.dropna(subset="signal")
    if found.empty:
        return where | {"status": "missing" if measured.empty else "zero"}
    means = {k: found[k].mean() for k in ("signal", "squared_mean", "variance", "images")}
    deviation = found["signal"].std(ddof=1)
    return {**where, **means, "status": "measured", "deviation": deviation, "seeds": len(found)}


def _cell(row: dict[str, Any]) -> Cell:
    if row["status"] != "measured":
        return Cell(row["status"], muted=True)
    signal, deviation = row["signal"], row["deviation"]
    spread = f" ± {number(100 * deviation, 1)}" if deviation == deviation else ""
    images = f" ({1 / signal - 1:,.0f})" if signal > 0 else ""
    return Cell(f"{number(100 * signal, 1)}{spread} %{images}")
