"""The one door to every table, figure, ledger and report: find it by name, make it, save it."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from rocm_core.analysis import Results
from rocm_core.configuration import Config
from rocm_core.errors import UserError

_MODULES = {
    "table": "rocm_core.tables.{}",
    "figure": "rocm_core.figures.{}",
    "claims": "rocm_core.{}",
    "report": "rocm_core.{}",
}


def render(
    kind: str, name: str, config: Config, results_root: str | Path, output_stem: str | Path
) -> None:
    """Make a table (.md, .tex, .csv), a figure (.pdf, .png, .csv), the claims (.json, .md) or the
    report (.html).

    The names of the last two are "claims" and "report"; the report shows the tables, and the claims
    and figures found in `results_root`.
    Raises `UserError` for an unknown name and for results that are missing or broken.
    """
    module = _MODULES.get(kind, "{}").format(name)
    if kind not in _MODULES or name.startswith("_") or find_spec(module) is None:
        raise UserError(f"there is no {kind} named {name!r} to render")
    import_module(module).make(Results(config, results_root)).save(Path(output_stem))
