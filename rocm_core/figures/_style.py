"""The one look of all figures, and how a figure is written."""

import math
import re
import textwrap
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import Formatter, LogFormatterMathtext, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from rocm_core.analysis import Results, metric_label
from rocm_core.figures._fonts import FAMILY, use_fonts
from rocm_core.provenance import atomic_write, write_csv

WIDTH = 5.6  # inches: one column of a page, and still legible on a phone
DPI = 200
UNEVEN = 5.0
_NOTE = 34  # characters of a remark's line, which the narrowest panel holds
_INK, _GRID = "#222222", "#dddddd"
_STYLE: dict[Any, Any] = {
    "font.family": FAMILY,
    "font.size": 10,
    # Prompts hold dollar signs: a text that is a formula says so by parse_math=True.
    "text.parse_math": False,
    "text.usetex": False,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#888888",
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "pdf.fonttype": 42,
}
styled = matplotlib.rc_context(_STYLE)  # decorates every function that draws

Look = tuple[str, Any]  # colour and marker, by its name or, for a star of n points, (n, 1, 0)
# Okabe & Ito's palette (2008) and Tol's muted one, without their yellows, too pale on white.
_LOOK: dict[str, Look] = {
    "rocm-none": ("#d55e00", "X"),
    "rocm-kl": ("#0072b2", "o"),
    "rocm-js": ("#009e73", "s"),
    "rocm-hellinger": ("#e69f00", "^"),
    "rocm-fisher": ("#cc79a7", "D"),
    "rocm-chi2": ("#56b4e9", "v"),
    "rocm-total-variation": ("#882255", "P"),
    "rocm-jeffreys": ("#332288", "<"),
    "rocm-alpha": ("#999933", ">"),
    "rocm-epsilon": ("#cc6677", "H"),
    "rlcm": ("#000000", "*"),
    "ddpo": ("#666666", "p"),
    "dpok": ("#a6761d", "h"),
    "d3po": ("#117733", "d"),
    "grpo-consistency": ("#6699cc", (3, 1, 0)),
    "grpo-consistency-kl": ("#aa4499", (4, 1, 0)),
    "rebel-consistency": ("#44aa99", (8, 1, 0)),
    "hybrid-consistency": ("#661100", "8"),
    "base-consistency": ("#7f7f7f", "."),
    "base-diffusion": ("#b0a080", "x"),
}
# Of what has no look of its own: such colours with other markers. Their counts have no common
# factor, so that every pair comes up.
_COLOURS = (
    *("#332288", "#cc6677", "#117733", "#56b4e9", "#882255"),
    *("#999933", "#e69f00", "#44aa99", "#aa4499"),
)
_MARKERS = ("s", "^", "D", "P", "v", "<", "h", ">", "d", "p")
_PAIRS = [
    (_COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)])
    for number in range(len(_COLOURS) * len(_MARKERS))
]
_SPARE = [pair for pair in _PAIRS if pair not in _LOOK.values()]
GREY = "#999999"  # of what stands beside what is shown


def look(family: str) -> Look:
    """Colour and marker of a method, the same in every figure and run; its sweeps share them."""
    return _LOOK.get(family) or spare_look(zlib.crc32(family.encode()))


def spare_look(number: int) -> Look:
    """The looks of things that are told apart by their number alone, some 80 of them; the first
    nine differ in colour, too."""
    return _SPARE[number % len(_SPARE)]


@dataclass(frozen=True)
class Drawing:
    """A finished figure, the data behind it, and a caption that names n, seeds and intervals."""

    figure: Figure
    data: pd.DataFrame
    title: str
    caption: str

    def __post_init__(self) -> None:
        use_fonts(self.figure)
        for axes in self.figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                for formatter, change in (
                    (axis.get_major_formatter(), axis.set_major_formatter),
                    (axis.get_minor_formatter(), axis.set_minor_formatter),
                ):
                    if isinstance(formatter, LogFormatterMathtext):
                        change(_Powers(formatter))

    @styled
    def save(self, stem: Path) -> None:
        """Write `stem` with the suffixes .pdf, .png (its metadata hold title and caption), .csv.

        The same drawing gives the same bytes: no time stamps.
        """
        about: dict[str, dict[str, str | None]] = {
            "pdf": {"Title": self.title, "Subject": self.caption, "CreationDate": None},
            "png": {"Title": self.title, "Description": self.caption},
        }
        for format, metadata in about.items():
            with atomic_write(stem.with_suffix(f".{format}")) as file:
                self.figure.savefig(file, format=format, dpi=DPI, metadata=metadata)
        rows = self.data.itertuples(index=False, name=None)
        write_csv(stem.with_suffix(".csv"), self.data.columns, rows)


class _Powers(Formatter):
    """Matplotlib's labels of a logarithmic axis, which are formulas, as text: 10⁻², 2×10⁻²."""

    def __init__(self, formulas: LogFormatterMathtext) -> None:
        self._formulas = formulas

    def set_locs(self, locs: Any) -> None:
        self._formulas.set_locs(locs)

    def __call__(self, x: float, pos: int | None = None) -> str:
        formula = self._formulas(x, pos)
        text = re.sub(r"\$\\mathdefault\{(.*)\}\$", r"\1", formula).replace(r"\times", "×")
        return re.sub(r"\^\{(.*)\}", lambda power: power[1].translate(_RAISED), text)


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def panels(
    rows: int, columns: int, *, height: float = 2.1, width: float = WIDTH, **share: bool | str
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of rows × columns axes, each row `height` inches high, laid out without overlaps."""
    figure = Figure(figsize=(width, rows * height + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **share)  # type: ignore[call-overload]
    return figure, axes.tolist()


def wrapped(count: int, *, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, two in a row."""
    columns = min(2, count)
    figure, grid = panels(math.ceil(count / columns), columns, height=height)
    axes = [panel for row in grid for panel in row]
    for panel in axes[count:]:
        panel.set_visible(False)
    return figure, axes[:count]


def by_reward(rewards: Iterable[str], *, height: float) -> tuple[Figure, dict[str, Axes]]:
    """The same with a panel for each training reward, titled with it."""
    names = list(rewards)
    figure, axes = wrapped(len(names), height=height)
    for panel, reward in zip(axes, names, strict=True):
        panel.set_title(f"Trained on {metric_label(reward)}")
    return figure, dict(zip(names, axes, strict=True))


def band(
    axes: Axes, x: pd.Series, mean: pd.Series, low: pd.Series, high: pd.Series, **look: Any
) -> None:
    """A line with a marker at its end, and a band around it."""
    axes.plot(x, mean, markevery=[-1], **look)
    axes.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0)


def cost_x(axes: Axes, costs: Sequence[pd.Series]) -> None:
    """An x axis for curves over what they cost: from 0, or logarithmic where the curves end more
    than `UNEVEN` apart."""
    ends = [float(cost.iloc[-1]) for cost in costs]
    if ends and max(ends) > UNEVEN * min(ends) > 0:
        log_x(axes, min(float(cost.iloc[0]) for cost in costs), max(ends))
    else:
        axes.locator_params(axis="x", nbins=3)
        axes.set_xlim(left=0)


def log_x(axes: Axes, low: float, high: float) -> None:
    """A logarithmic x axis for numbers from `low` to `high` whose labels have room."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    if high < 30 * low:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def handles(results: Results, methods: Sequence[str], *, where: bool = True) -> list[Line2D]:
    """Legend entries: colour and marker of each method; ROCM is named where others are, too.
    Without `where` those of its like, on whatever few-step model it is."""
    short = all(results.models[method].like.startswith("rocm-") for method in methods)
    looks = [look(m if where else results.models[m].like) for m in methods]
    labels = [results.label(method, short=short, where=where) for method in methods]
    return [
        Line2D([], [], color=colour, marker=marker, label=label)
        for (colour, marker), label in zip(looks, labels, strict=True)
    ]


def legend(figure: Figure, entries: Sequence[Line2D]) -> None:
    """One legend above all panels, in as many columns as there is room for."""
    columns = len(entries) if len(entries) <= 5 else 3 if len(entries) in (6, 9) else 4
    _legend(figure, entries, columns, "outside upper center")


def legend_below(figure: Figure, groups: Sequence[Sequence[Line2D]]) -> None:
    """One legend below all panels with a column per group, for which the figure grows."""
    longest = max(map(len, groups))
    blank = Line2D([], [], linestyle="", label="")
    entries = [entry for group in groups for entry in [*group, *[blank] * (longest - len(group))]]
    height = _legend(figure, entries, len(groups), "outside lower center").height / figure.dpi
    figure.set_figheight(figure.get_figheight() + height)


def _legend(
    figure: Figure,
    entries: Sequence[Line2D],
    columns: int,
    place: Literal["outside upper center", "outside lower center"],
) -> Bbox:
    """The legend of at most so many columns that is no wider than the figure; its extent."""
    while True:
        drawn = figure.legend(
            handles=entries,
            loc=place,
            ncols=columns,
            columnspacing=1.2,
            handlelength=1.5,
            handletextpad=0.5,
        )
        extent = drawn.get_window_extent()
        if columns == 1 or extent.width <= figure.bbox.width:
            return extent
        drawn.remove()
        columns -= 1


def note_missing(
    axes: Axes, results: Results, methods: Sequence[str], present: Iterable[str]
) -> None:
    """Say in the panel which methods have no data yet: those that are not among the present."""
    missing = [method for method in methods if method not in set(present)]
    names = ", ".join(results.label(method, short=True) for method in missing)
    note(axes, f"missing: {names}" if names else "")


def no_interval(bounds: pd.Series, drawn: str) -> str:
    """The end of a caption where some of the data has no interval, and so no bar or band."""
    absent = f" No {drawn}: one value, or equal ones, which have no interval."
    return absent if bounds.isna().any() else ""


def note(axes: Axes, text: str) -> None:
    """A remark at the bottom of a panel, if there is one."""
    if text:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        place: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "zorder": 10}
        axes.text(0.5, 0.03, textwrap.fill(text, _NOTE), fontsize=8, bbox=box, **place)
