"""The tables: each name is a module here with `make(results) -> Table`."""

from rocm_core.config import Config
from rocm_core.grid import make_grid

TABLES = ("table1", "table4", "costs", "sweep", "readouts")


def tables(config: Config) -> list[str]:
    """The tables that this configuration has the data for, in the order of the report."""
    cells = make_grid(config)
    has = {
        "table1": True,
        "table4": any(cell.settings.algorithm != "direct" for cell in cells),
        "costs": len({(cell.settings.algorithm, cell.settings.policy) for cell in cells}) > 1,
        "sweep": any("--" in cell.method for cell in cells),
        "readouts": True,
    }
    return [name for name in TABLES if has[name]]
