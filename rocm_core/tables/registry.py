"""Which tables there are; free of heavy imports, for the Snakefile."""

from rocm_core.configuration import Config
from rocm_core.grid import offered


def tables(config: Config) -> list[str]:
    """The tables that this configuration has the data for, in the order of the report."""
    return offered("tables", config)
