"""The grid: the cells of a configuration, what each is trained with, and what is evaluated where.

`load_config` is the way in: it reads a configuration and checks it against its grid.
"""

from rocm_core.grid.artefacts import Artefacts, Made, shown_sections
from rocm_core.grid.beta_sweep import beta_tries
from rocm_core.grid.cells import Cell, make_grid, spell, table
from rocm_core.grid.disk import needed, used
from rocm_core.grid.evaluation import (
    evaluation_sets,
    generation_settings,
    inference_steps,
    sample_sets,
    snapshot_prompts,
    training_sets,
)
from rocm_core.grid.loading import load_config, parse_config
from rocm_core.grid.methods import METHODS, parse_method
from rocm_core.grid.needs import offered
from rocm_core.grid.snapshots import snapshot_steps

__all__ = [
    "METHODS",
    "Artefacts",
    "Cell",
    "Made",
    "beta_tries",
    "evaluation_sets",
    "generation_settings",
    "inference_steps",
    "load_config",
    "make_grid",
    "snapshot_prompts",
    "needed",
    "offered",
    "parse_config",
    "parse_method",
    "sample_sets",
    "shown_sections",
    "snapshot_steps",
    "spell",
    "table",
    "training_sets",
    "used",
]
