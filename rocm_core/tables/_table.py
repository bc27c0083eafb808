"""A table of blocks that can be written as Markdown, LaTeX (booktabs), HTML and CSV."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from rocm_core.analysis import (
    Estimate,
    Results,
    amount,
    decimals,
    environment,
    mean_interval,
)
from rocm_core.provenance import atomic_write, write_csv


@dataclass(frozen=True)
class Cell:
    """One entry; `bold` marks the best of its column, `muted` a value that is withheld.

    `math` is LaTeX that says the same as the text, for the formats that show formulas.
    """

    text: str
    bold: bool = False
    muted: bool = False
    math: str = ""


@dataclass(frozen=True)
class Block:
    """Rows under one heading that spans the table."""

    heading: str
    rows: list[list[Cell]] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """`blocks` under one `header`; `data` holds the numbers behind them, one per row."""

    title: str
    caption: str
    header: Sequence[str]
    blocks: Sequence[Block]
    data: pd.DataFrame

    def save(self, stem: Path) -> None:
        """Write `stem` with the suffixes .md, .tex and .csv."""
        for suffix, text in ((".md", self.markdown()), (".tex", self.latex(stem.name))):
            with atomic_write(stem.with_suffix(suffix)) as file:
                file.write(text.encode())
        rows = self.data.itertuples(index=False, name=None)
        write_csv(stem.with_suffix(".csv"), self.data.columns, rows)

    def markdown(self) -> str:
        """The table for Markdown: a heading, one table per block, the caption."""
        return _templates().get_template("table.md.j2").render(table=self)

    def latex(self, label: str) -> str:
        """A `table*` environment; its first line says which packages it needs."""
        return _templates().get_template("table.tex.j2").render(table=self, label=label)

    def html(self) -> str:
        """A <table> element; best entries have the class best, withheld ones muted."""
        return _templates().get_template("table.html.j2").render(table=self)


@functools.cache
def _templates() -> jinja2.Environment:
    return environment(Path(__file__).parent)


def measured(value: Estimate | pd.Series | None, **more: Any) -> dict[str, Any]:
    """Columns of a row: status, mean, low, high and n of an estimate or of the mean of scores, and
    `more`; the status is missing without one."""
    if isinstance(value, pd.Series):
        value = mean_interval(value) if len(value) else None
    return {"status": "measured"} | vars(value) | more if value else {"status": "missing"}


def interval_of(changes: pd.DataFrame) -> str:
    """What the interval of `Results.change` is over, for a caption of rows that are measured."""
    prompts, seeds = amount(changes["n"], "validation prompt"), changes["seeds"].dropna()
    over = f"and {amount(seeds, 'training seed')}" if (seeds > 1).any() else "of one training"
    return f"the 95 % interval over {prompts} {over}"


def rows_of(data: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[pd.Series, int]]:
    """Each row, and the decimals for it: those that show with two digits the median half-width (low
    to high) of the rows that are alike in the columns `by`."""
    widths = (data["high"] - data["low"]).groupby([data[column] for column in by])
    halves = widths.transform("median") / 2
    return zip((row for _, row in data.iterrows()), map(decimals, halves), strict=True)


def entry(
    row: pd.Series,
    digits: int,
    *,
    is_change: bool = False,
    end: str = "",
    bold: bool = False,
    muted: bool = False,
) -> Cell:
    """A row's mean ± half-width or, of a change, its mean [low, high]; without these its status."""
    if pd.isna(row["mean"]):
        return Cell(row["status"], muted=True)
    estimate = Estimate(row["mean"], row["low"], row["high"], row["n"])
    text = estimate.change(digits) if is_change else estimate.plus_minus(digits)
    return Cell(text + end, bold, muted)


def lines(results: Results, data: pd.DataFrame) -> list[list[Cell]]:
    """One line per method of `data`: its label, then its entries, the column `cell`."""
    by_method = data.groupby("method", sort=False)["cell"]
    return [[Cell(results.label(str(method))), *cells] for method, cells in by_method]


def with_cells(data: pd.DataFrame, cells: Sequence[Cell]) -> pd.DataFrame:
    """`data` with its entries as the column `cell`."""
    return data.assign(cell=np.array(cells, dtype=object))


def blocks_of(results: Results, data: pd.DataFrame, heading: str) -> list[Block]:
    """One block per training reward, whose name fills the {} of the heading: see `lines`."""
    by_reward = data.groupby("reward", sort=False)
    return [
        Block(heading.format(results.reward_label(str(reward))), lines(results, rows))
        for reward, rows in by_reward
    ]
