"""Which figures there are; free of heavy imports, for the Snakefile."""

from rocm_core.configuration import Config
from rocm_core.grid import offered


def figures(config: Config) -> list[str]:
    """The figures that this configuration has the data for, in the order of the report; figure 3
    once there are votes."""
    return offered("figures", config)
