"""Render one table, one figure, the claims or the report by name."""

from pathlib import Path

from rocm_core import claims, report
from rocm_core.analysis import Results
from rocm_core.configuration import Config
from rocm_core.plugins import load


def render(
    kind: str, name: str, config: Config, results_root: str | Path, output_stem: str | Path
) -> None:
    """Make a table (.md, .tex, .csv), a figure (.pdf, .png, .csv), the claims (.json, .md) or the
    report (.html).

    `name` is that of the table or figure; the report shows the tables, and the claims and figures
    found in `results_root`.
    Raises `UserError` for an unknown name and for results that are missing or broken.
    """
    maker = {"claims": claims, "report": report}.get(kind) or load(f"{kind}s", name, kind)
    maker.make(Results(config, results_root)).save(Path(output_stem))
