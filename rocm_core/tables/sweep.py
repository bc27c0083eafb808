"""Every setting that was tried in a sweep or a search, beside the method as it stands; table 2 has
the β of a search or, where there is none, of a sweep."""

from collections.abc import Iterable

import pandas as pd

from rocm_core.analysis import (
    GOLD,
    Results,
    Source,
    lead_of_choice,
    metric_label,
    only,
    sweep_points,
    swept_label,
)
from rocm_core.grid import searched, spell
from rocm_core.tables._table import (
    Block,
    Cell,
    Table,
    entry,
    interval_of,
    measured,
    rows_of,
    with_cells,
)

TITLE = "Swept settings"
NEEDS = ("other sweeps",)
READS = ("scores", "choices")
PLACE = 6
COLUMNS = [
    *("reward", "method", "metric", "status", "change", "low", "high"),
    *("n", "seeds", "best"),
]


def make(results: Results) -> Table:
    """One block per reward and swept method: change of the trained reward and of the gold judge.
    Where sweeps trained to the end, their block leaves out the shorter trials of a search.

    `data` has `COLUMNS`; status is measured or missing; best marks the largest change of a block
    and metric.
    """
    gold = [GOLD] if GOLD in results.config.metrics else []
    of_table2 = {(point.reward, point.method) for point in sweep_points(results, trials=True)}
    cells = [
        (source, source.cell)
        for source in results.trained
        if source.cell and not (source.swept and (source.reward, source.method) in of_table2)
    ]
    whole = {(c.reward, c.method) for _, c in cells if c.swept and not c.trial}
    families: dict[tuple[str, str], dict[str, Source]] = {}
    for source, cell in cells:
        family = cell.reward, cell.method
        if not (cell.trial if family in whole else searched(cell.settings)):
            families.setdefault(family, {}).setdefault(source.method, source)
    families = {key: tried for key, tried in families.items() if len(tried) > 1}
    data = pd.DataFrame(
        [
            {"reward": reward, "method": method, "metric": metric}
            | measured(results.change(reward, method, metric), seeds=results.seeds(reward, method))
            for (reward, _), tried in families.items()
            for method in tried
            for metric in dict.fromkeys([reward, *gold])
        ],
        columns=["mean" if name == "change" else name for name in COLUMNS[:-1]],
    )
    block = data["method"].map({name: source.family for name, source in results.models.items()})
    best = data.groupby([data["reward"], block, data["metric"]])["mean"].transform("max")
    data["best"] = data["mean"] == best
    by_block = rows_of(data, ["reward", "metric"])
    entries = [
        entry(row, digits, is_change=True, bold=bool(row["best"])) for row, digits in by_block
    ]
    shown = with_cells(data, entries)
    blocks = []
    for (reward, method), tried in families.items():
        rows = [
            [
                Cell(_settings(results, source, tried.values()) + _chosen(results, source)),
                *only(shown, reward=reward, method=name)["cell"],
            ]
            for name, source in tried.items()
        ]
        blocks.append(Block(f"{results.label(method)} on {results.reward_label(reward)}", rows))
    present = only(data, status="measured")
    caption = (
        f"Change against the own base on the same prompts and noise, with {interval_of(present)}. "
        "Bold: the largest of its block, which flatters itself."
    )
    if any(cell.trial for _, cell in cells if (cell.reward, cell.method) in families):
        caption += (
            " Chosen: what held-out scorers preferred in a search among what had learned; in"
            " parentheses how far they put it before the next best of these, one training each,"
            " over the prompts that did not choose. †: the smallest or the largest that was tried;"
            " the best may lie beyond."
        )
    swept = {name for tried in families.values() for one in tried.values() for name in one.swept}
    if "inference_steps" in swept:
        caption += " What was trained with other inference steps is measured with the policy's."
    header = ["Setting", "Trained reward", *map(metric_label, gold)]
    return Table(TITLE, caption, header, blocks, data.rename(columns={"mean": "change"}))


def _chosen(results: Results, source: Source) -> str:
    """Whether a try is the one that its search chose, whether that is an end of what was tried, and
    how far it is ahead."""
    if not (source.cell and source.cell.trial and source.reward):
        return ""
    search = source.reward, source.family
    chosen = results.choice(*search)
    if not chosen or not chosen.items() <= source.swept.items():
        return ""
    edge = "†" if results.choice(*search, "edge") else ""
    lead = lead_of_choice(results, *search)
    unit = " SD" if len(results.choice(*search, "metrics")) > 1 else ""
    return f", chosen{edge}" + (f" ({lead.change(unit=unit)})" if lead else "")


def _settings(results: Results, source: Source, tried: Iterable[Source]) -> str:
    """The values of what is swept in the family; where not all of it has the same settings swept,
    the method as it stands is shown without values."""
    if source.swept:
        return swept_label(source)
    assert source.cell  # a base is not swept
    names, *others = dict.fromkeys(tuple(other.swept) for other in tried if other.swept)
    if others:
        return "as configured"
    asked = {name: getattr(source.cell.settings, name) for name in names}
    asked |= dict.fromkeys(searched(source.cell.settings).keys() & asked.keys(), "to be searched")
    asked |= {
        k: v for k, v in results.choice(source.cell.reward, source.family).items() if k in asked
    }
    return ", ".join(
        [*(f"{name} {spell(value)}" for name, value in asked.items()), "as configured"]
    )
