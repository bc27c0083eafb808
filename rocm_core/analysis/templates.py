"""How pages of text are made: templates beside the module that fills them.

Text is text: what a format would take for markup is escaped, in one place per format.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

# A bracket makes a link only with what follows it: intervals stay legible.
_MARKDOWN = re.compile(r"[\\`*_<>|$&~]|\](?=[\[(:])")
_LATEX = str.maketrans(
    {
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
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "`": r"\textasciigrave{}",
        '"': "''",
        "\0": "{}",
        "±": r"$\pm$",
        "−": r"$-$",
        "×": r"$\times$",
        "–": "--",
        "χ": r"$\chi$",
        "²": r"$^2$",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "α": r"$\alpha$",
        "β": r"$\beta$",
        "γ": r"$\gamma$",
        "ε": r"$\varepsilon$",
        "η": r"$\eta$",
        "λ": r"$\lambda$",
        "μ": r"$\mu$",
        "σ": r"$\sigma$",
        "‖": r"$\|$",
        "√": r"$\surd$",
        "∞": r"$\infty$",
        "≈": r"$\approx$",
        "≠": r"$\neq$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "→": r"$\to$",
        "Σ": r"$\Sigma$",
        "†": r"$\dagger$",
    }
)


def environment(folder: Path, **filters: Callable[..., Any]) -> jinja2.Environment:
    """The templates in a folder. Those that end in .html.j2 escape what they are given; in others
    the filters `md` and `tex` do. A name that they are not given is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {"md": markdown, "tex": latex} | filters
    return made


def markdown(text: str) -> str:
    """A text on one line of Markdown, a table's cell too; `Markup` stays as it is."""
    if isinstance(text, Markup):
        return text
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(text.splitlines()))


def latex(text: str) -> str:
    """A text in LaTeX, at the beginning of a table's row too."""
    # Two hyphens would be a dash; what follows `\\` must not look like its arguments.
    line = re.sub(r"-(?=-)|^(?=[\[*])", "\\g<0>\0", " ".join(text.splitlines()))
    return line.translate(_LATEX)
