"""A table of blocks that can be written as Markdown, LaTeX (booktabs), HTML and CSV."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd


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
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".md").write_text(self.markdown(), encoding="utf-8")
        stem.with_suffix(".tex").write_text(self.latex(stem.name), encoding="utf-8")
        self.data.to_csv(stem.with_suffix(".csv"), index=False, lineterminator="\n")

    def markdown(self) -> str:
        def row(texts: Sequence[str]) -> str:
            return "| " + " | ".join(t.replace("|", "\\|") for t in texts) + " |"

        def entry(cell: Cell) -> str:
            if cell.math:
                return f"${cell.math}$"
            return (
                f"**{cell.text}**" if cell.bold else f"*{cell.text}*" if cell.muted else cell.text
            )

        align = "|---|" + "---:|" * (len(self.header) - 1)
        parts = [f"# {self.title}"]
        for block in self.blocks:
            lines = [row(self.header), align]
            lines += [row([entry(c) for c in cells]) for cells in block.rows]
            parts += [f"**{block.heading}**", "\n".join(lines)]
        return "\n\n".join([*parts, self.caption]) + "\n"

    def latex(self, label: str) -> str:
        """A `table*` environment for a document that loads booktabs, amsmath and amssymb."""

        def entry(cell: Cell) -> str:
            text = f"${cell.math}$" if cell.math else _escape_latex(cell.text)
            return (
                rf"\textbf{{{text}}}" if cell.bold else rf"\emph{{{text}}}" if cell.muted else text
            )

        width = len(self.header)
        lines = [
            r"\begin{table*}",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{_escape_latex(f'{self.title}. {self.caption}')}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
            r"\toprule",
            " & ".join(map(_escape_latex, self.header)) + r" \\",
        ]
        for block in self.blocks:
            heading = _escape_latex(block.heading)
            lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{heading}}}}} \\"]
            lines += [" & ".join(entry(c) for c in cells) + r" \\" for cells in block.rows]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}", ""])

    def html(self) -> str:
        """A <table> element; best entries have the class best, withheld ones muted."""
        text: Callable[[str], str] = html.escape

        def entry(cell: Cell, column: int) -> str:
            tag = "td" if column else "th"
            kind = "best" if cell.bold else "muted" if cell.muted else ""
            return f"<{tag}{f' class={kind}' if kind else ''}>{text(cell.text)}</{tag}>"

        head = "".join(f"<th>{text(h)}</th>" for h in self.header)
        parts = ["<table>", f"<thead><tr>{head}</tr></thead>"]
        for block in self.blocks:
            span = f"<tr class=block><th colspan={len(self.header)}>{text(block.heading)}</th></tr>"
            rows = ["".join(entry(c, i) for i, c in enumerate(cells)) for cells in block.rows]
            parts += ["<tbody>", span, *(f"<tr>{r}</tr>" for r in rows), "</tbody>"]
        return "\n".join([*parts, "</table>"])


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
    "χ": r"$\chi$",
    "²": r"$^2$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "μ": r"$\mu$",
    "σ": r"$\sigma$",
    "‖": r"$\|$",
    "√": r"$\surd$",
    "Σ": r"$\Sigma$",
    "†": r"$\dagger$",
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
