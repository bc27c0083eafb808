"""Every setting that was tried in a sweep, beside the method as it stands; the β of ROCM are in
table 2."""

from collections.abc import Sequence

import pandas as pd

from rocm_core.analysis import (
    GOLD,
    Results,
    amount,
    decimals,
    method_label,
    metric_label,
    number,
    paired_difference,
)
from rocm_core.grid import beta_tries
from rocm_core.tables._table import Block, Cell, Table

TITLE = "Swept settings"
NEEDS = ("other sweeps",)
READS = ("scores",)
PLACE = 6
COLUMNS = [
    *("reward", "method", "metric", "status", "change", "low", "high"),
    *("n", "seeds", "best"),
]


def make(results: Results) -> Table:
    """One block a reward and swept method: change of the trained reward and of the gold judge.

    `data` has `COLUMNS`; status is measured or missing; best marks the largest change of a block
    and metric.
    """
    judge = [GOLD] if GOLD in results.config.metrics else []
    of_table2 = {(c.reward, c.variant) for c in beta_tries(results.cells) if "--" in c.variant}
    families = {
        (reward, method): [m for m in every if m.partition("--")[0] == method]
        for reward in results.rewards
        for every in [
            [m for m in results.methods(reward, sweeps=True) if (reward, m) not in of_table2]
        ]
        for method in dict.fromkeys(m.partition("--")[0] for m in every)
    }
    families = {key: methods for key, methods in families.items() if len(methods) > 1}
    data = pd.DataFrame(
        [
            _entry(results, reward, method, metric)
            for (reward, _), methods in families.items()
            for method in methods
            for metric in dict.fromkeys([reward, *judge])
        ],
        columns=COLUMNS[:-1],
    )
    family = data["method"].str.partition("--")[0]
    best = data.groupby([data["reward"], family, data["metric"]])["change"].transform("max")
    data["best"] = data["change"] == best
    halves = (data["high"] - data["low"]).groupby([data["reward"], data["metric"]]).median() / 2
    blocks = []
    for (reward, method), methods in families.items():
        block = Block(f"{method_label(method)} on {metric_label(reward)}")
        for name in methods:
            own = data[(data["reward"] == reward) & (data["method"] == name)]
            cells = [_cell(e, decimals(halves[reward, e["metric"]])) for _, e in own.iterrows()]
            block.rows.append([Cell(_settings(results, reward, methods, name)), *cells])
        blocks.append(block)
    measured = data[data["status"] == "measured"]
    caption = (
        "Change against the own base on the same prompts and noise, with the 95 % interval of a "
        f"bootstrap over {amount(measured['n'], 'validation prompt')} "
        f"({amount(measured['seeds'], 'training seed')}, averaged within a prompt). Bold: the "
        "largest of its block, which was chosen among several and so flatters itself."
    )
    header = ["Setting", "Trained reward", *map(metric_label, judge)]
    return Table(TITLE, caption, header, blocks, data)


def _settings(results: Results, reward: str, family: Sequence[str], method: str) -> str:
    """The values of what is swept in the family."""
    if "--" in method:
        return ", ".join(part.replace("-", " ", 1) for part in method.split("--")[1:])
    swept = dict.fromkeys(p.partition("-")[0] for m in family for p in m.split("--")[1:])
    own = next(c.settings for c in results.cells if (c.reward, c.variant) == (reward, method))
    values = [f"{name} {getattr(own, name)}" for name in swept]
    return f"{', '.join(values)}, as configured"


def _entry(results: Results, reward: str, method: str, metric: str) -> dict[str, object]:
    entry: dict[str, object] = {"reward": reward, "method": method, "metric": metric}
    after = results.scores(method, metric, reward)
    before = results.scores(results.base_of(reward, method), metric)
    if after.empty or before.empty:
        return entry | {"status": "missing"}
    found = paired_difference(after, before)
    numbers = {"change": found.mean, "low": found.low, "high": found.high, "n": found.n}
    return entry | {"status": "measured", "seeds": results.seeds(reward, method)} | numbers


def _cell(entry: pd.Series, digits: int) -> Cell:
    if entry["status"] == "missing":
        return Cell("missing", muted=True)
    mean, low, high = (number(entry[k], digits, signed=True) for k in ("change", "low", "high"))
    return Cell(f"{mean} [{low}, {high}]", bold=bool(entry["best"]))
