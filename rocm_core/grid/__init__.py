"""The grid: the cells of a configuration, what each is trained with, and what is evaluated where.

`load_config` is the way in: it reads a configuration and checks it against its grid.
"""

from rocm_core.grid.artefacts import Artefacts, Made, shown_sections
from rocm_core.grid.beta_sweep import beta_tries
from rocm_core.grid.cells import Cell, make_grid, table
from rocm_core.grid.evaluation import (
    evaluation_sets,
    generation_settings,
    sample_sets,
    training_sets,
)
from rocm_core.grid.loading import load_config, parse_config
from rocm_core.grid.methods import METHODS, parse_method
from rocm_core.grid.snapshots import snapshot_steps

__all__ = [
    "METHODS",
    "Artefacts",
    "Cell",
    "Made",
    "beta_tries",
    "evaluation_sets",
    "generation_settings",
    "load_config",
    "make_grid",
    "parse_config",
    "parse_method",
    "sample_sets",
    "shown_sections",
    "snapshot_steps",
    "table",
    "training_sets",
]
