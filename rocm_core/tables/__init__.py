"""The tables: each name is a module here with `make(results) -> Table`."""

from rocm_core.configuration import Config
from rocm_core.grid import beta_tries, make_grid

TABLES = ("table1", "table2", "table3", "table4", "costs", "sweep", "readouts")


def tables(config: Config) -> list[str]:
    """The tables that this configuration has the data for, in the order of the report."""
    cells = make_grid(config)
    rocm = [cell.settings for cell in cells if cell.settings.algorithm == "direct"]
    betas = beta_tries(cells)
    has = {
        "table1": True,
        "table2": bool(betas),
        "table3": any(settings.divergence != "none" for settings in rocm),
        "table4": any(cell.settings.algorithm != "direct" for cell in cells),
        "costs": len({(cell.settings.algorithm, cell.settings.policy) for cell in cells}) > 1,
        "sweep": any("--" in cell.variant for cell in cells if cell not in betas),
        "readouts": True,
    }
    return [name for name in TABLES if has[name]]
