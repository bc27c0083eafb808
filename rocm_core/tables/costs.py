"""What each method needs for a training reward that every algorithm reaches."""

import math
from typing import Any

import pandas as pd

from rocm_core.analysis import (
    COSTS,
    Results,
    common_reward,
    compared_rewards,
    curves,
    decimals,
    number,
    reach,
    settled,
    training_seeds,
    what_is_paid_for,
)
from rocm_core.tables._table import Block, Cell, Table

TITLE = "What each method needs for the same training reward"
NEEDS = ("algorithms",)
READS = ("histories", "base rewards")
PLACE = 5
COLUMNS = [
    *("reward", "method", "status", "final", "deviation", "settled", "goal"),
    *COSTS,
    *(f"total_{cost}" for cost in COSTS),
    "seeds",
]
_HEADER = ["Method", "Final reward", "Comes to", "Training seconds", "Reward queries", "NFE"]


def make(results: Results) -> Table:
    """One block per training reward on which several algorithms are compared: the reward at the
    end and the reward that a training comes to (`settled`), and the costs until `goal`, what the
    slowest comes to, in the trend of the rewards (`rising`).

    `data` has `COLUMNS`; status is measured or missing; deviation is over seeds, empty for one;
    `COSTS` are empty for a method that never reaches the goal.
    """
    rows, blocks = [], []
    for reward in compared_rewards(results):
        measured = curves(results, reward, results.methods(reward))
        goal, slowest = common_reward(results, measured) if measured else (float("nan"), "")
        heading = f"Trained on {results.reward_label(reward)}"
        means = [curve["mean"] for curve in measured.values()]
        # Decimals that show how far the curves go, with two digits.
        digits = max((decimals((mean.max() - mean.min()) / 2) for mean in means), default=3)
        if measured:
            heading += f": to reach {number(goal, digits)}, what {results.label(slowest)} comes to"
        methods = results.methods(reward)
        own = {method: _row(goal, measured.get(method)) for method in methods}
        lines = [[Cell(results.label(m)), *_cells(row, digits)] for m, row in own.items()]
        blocks.append(Block(heading, lines))
        rows += [{"reward": reward, "method": method} | row for method, row in own.items()]
    data = pd.DataFrame(rows, columns=COLUMNS)
    seeds = training_seeds(data["seeds"], "deviation")
    caption = (
        f"Rewards: {what_is_paid_for(results)}; its running mean at the end of the training"
        f" (± standard deviation over {seeds}), and what a training comes to: its trend, the rising"
        " curve nearest to the rewards, over the last fifth. Costs: what the trend, averaged over"
        " seeds, had taken when it first reached the goal, and in brackets the share of the whole"
        " training's; –: it never does. A method may start above the goal: it then needs its first"
        " window."
    )
    return Table(TITLE, caption, _HEADER, blocks, data)


def _row(goal: float, curve: pd.DataFrame | None) -> dict[str, Any]:
    if curve is None:
        return {"status": "missing"}
    last, met = curve.iloc[-1], reach(curve, goal)
    return (
        {"status": "measured", "final": last["mean"], "deviation": last["deviation"]}
        | {"settled": settled(curve), "goal": goal, "seeds": last["seeds"]}
        | {cost: float("nan") if met is None else met[cost] for cost in COSTS}
        | {f"total_{cost}": last[cost] for cost in COSTS}
    )


def _cells(row: dict[str, Any], digits: int) -> list[Cell]:
    if row["status"] == "missing":
        return [Cell("missing", muted=True)] * (len(_HEADER) - 1)
    spread = row["deviation"]
    deviation = "" if math.isnan(spread) else f" ± {number(spread, digits)}"
    rewards = [number(row["final"], digits) + deviation, number(row["settled"], digits)]
    costs = [
        "–" if math.isnan(cost := row[name]) else f"{cost:,.0f} ({cost / row[f'total_{name}']:.0%})"
        for name in COSTS
    ]
    return [Cell(text) for text in (*rewards, *costs)]
