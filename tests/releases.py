"""The settings of the peers' releases beside ours: docs/releases.csv and the configurations.

`python tests/releases.py` writes the table in docs/baselines.md again. `ours` in the CSV is an
expression of a cell's settings; a value with three slashes is one for each of RLCM's tasks.
"""

import csv
import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from rocm_core.grid import load_config, make_grid  # noqa: E402

PAGE = ROOT / "docs/baselines.md"
DATA = ROOT / "docs/releases.csv"
BEGIN, END = "<!-- releases: python tests/releases.py -->\n", "<!-- end of releases -->\n"
TASKS = ("aesthetic", "jpeg_compressibility", "jpeg_incompressibility", "alignment")
CELLS = {  # of each release: the configuration that repeats it, and its cells there
    "RLCM": ("rlcm", [f"{task}/rlcm" for task in TASKS]),
    "DDPO": ("rlcm", [f"{task}/ddpo" for task in TASKS]),
    "DPOK": ("paper", ["hpsv2/dpok"]),
    "D3PO": ("paper", ["hpsv2/d3po"]),
}


@dataclass(frozen=True)
class Row:
    """theirs, ours: one value per cell of `CELLS`; ours is empty where no setting says it."""

    release: str
    setting: str
    theirs: list[Any]
    source: str
    ours: list[Any]
    note: str


def rows() -> list[Row]:
    """The CSV's rows, with our values from the configurations."""
    found = []
    with DATA.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            settings = _settings(line["release"])
            theirs = [_value(text) for text in line["value"].split(" / ")]
            ours = [eval(line["ours"], {}, one) for one in settings] if line["ours"] else []
            if len(theirs) == 1:
                theirs *= len(settings)
            about = line["release"], line["setting"], theirs, line["source"], ours, line["note"]
            found.append(Row(*about))
    return found


@functools.cache
def _settings(release: str) -> list[dict[str, Any]]:
    name, wanted = CELLS[release]
    config = load_config(ROOT / f"config/{name}.yaml")
    cells = {cell.name: cell.settings.to_dict() for cell in make_grid(config)}
    return [cells[f"{cell}/seed-{config.seeds[0]}"] for cell in wanted]


def _value(text: str) -> Any:
    """As YAML has it, but 1e-4 is a number too."""
    try:
        return float(text)
    except ValueError:
        return yaml.safe_load(text)


def table() -> str:
    """The table in Markdown."""
    lines = [
        "| | setting | release | where | ours | why they differ |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows():
        ours = "–" if not row.ours else "=" if row.ours == row.theirs else _show(row.ours)
        cells = [row.release, row.setting, _show(row.theirs), row.source, ours, row.note]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _show(values: list[Any]) -> str:
    texts = [_spell(value) for value in values]
    return " / ".join(texts if len(set(texts)) > 1 else texts[:1])


def _spell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_spell, value))
    return f"{value:g}" if isinstance(value, float) and value < 1e5 else f"{value}"


def page() -> str:
    """docs/baselines.md with the table as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
