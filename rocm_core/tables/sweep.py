"""Every setting that was tried in a sweep, beside the method as it stands; the β of ROCM are in
table 2."""

from collections.abc import Iterable

import pandas as pd

from rocm_core.analysis import (
    GOLD,
    Results,
    Source,
    amount,
    decimals,
    metric_label,
    number,
    paired_difference,
)
from rocm_core.grid import beta_tries, spell
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
    """One block per reward and swept method: change of the trained reward and of the gold judge.

    `data` has `COLUMNS`; status is measured or missing; best marks the largest change of a block
    and metric.
    """
    judge = [GOLD] if GOLD in results.config.metrics else []
    of_table2 = {cell.name for cell in beta_tries(results.cells) if cell.swept}
    families: dict[tuple[str, str], dict[str, Source]] = {}
    for source in results.trained:
        if source.name not in of_table2:
            tried = families.setdefault((str(source.reward), source.family), {})
            tried.setdefault(source.method, source)
    families = {key: tried for key, tried in families.items() if len(tried) > 1}
    data = pd.DataFrame(
        [
            _entry(results, reward, method, metric)
            for (reward, _), tried in families.items()
            for method in tried
            for metric in dict.fromkeys([reward, *judge])
        ],
        columns=COLUMNS[:-1],
    )
    family = data["method"].map({name: source.family for name, source in results.models.items()})
    best = data.groupby([data["reward"], family, data["metric"]])["change"].transform("max")
    data["best"] = data["change"] == best
    halves = (data["high"] - data["low"]).groupby([data["reward"], data["metric"]]).median() / 2
    blocks = []
    for (reward, method), tried in families.items():
        block = Block(f"{results.label(method)} on {metric_label(reward)}")
        for name, source in tried.items():
            own = data[(data["reward"] == reward) & (data["method"] == name)]
            cells = [_cell(e, decimals(halves[reward, e["metric"]])) for _, e in own.iterrows()]
            block.rows.append([Cell(_settings(source, tried.values())), *cells])
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


def _settings(source: Source, tried: Iterable[Source]) -> str:
    """The values of what is swept in the family."""
    if source.swept:
        return ", ".join(f"{setting} {spell(value)}" for setting, value in source.swept.items())
    assert source.cell  # a base is not swept
    names = dict.fromkeys(setting for other in tried for setting in other.swept)
    values = [f"{name} {getattr(source.cell.settings, name)}" for name in names]
    return f"{', '.join(values)}, as configured"


def _entry(results: Results, reward: str, method: str, metric: str) -> dict[str, object]:
    entry: dict[str, object] = {"reward": reward, "method": method, "metric": metric}
    after = results.scores(method, metric, reward)
    before = results.scores(results.base_of(reward, method), metric)
    if after.empty or before.empty:
        return entry | {"status": "missing"}
    change = paired_difference(after, before)
    numbers = {"change": change.mean, "low": change.low, "high": change.high, "n": change.n}
    return entry | {"status": "measured", "seeds": results.seeds(reward, method)} | numbers


def _cell(entry: pd.Series, digits: int) -> Cell:
    if entry["status"] == "missing":
        return Cell("missing", muted=True)
    mean, low, high = (number(entry[k], digits, signed=True) for k in ("change", "low", "high"))
    return Cell(f"{mean} [{low}, {high}]", bold=bool(entry["best"]))
