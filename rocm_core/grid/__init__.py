"""The grid: the cells of a configuration, what each is trained with, and what is evaluated where.

`load_config` is the way in: it reads a configuration and checks it against its grid.
"""

from rocm_core.grid.artefacts import Artefacts, needed, used
from rocm_core.grid.base_rewards import BaseRun, base_runs
from rocm_core.grid.budget import (
    GPUS,
    REACHED,
    UNKNOWN_PROMPTS,
    budget_of,
    images_per_iteration,
    training_work,
)
from rocm_core.grid.cells import Cell, make_grid, spell, table, trials_of
from rocm_core.grid.codes import (
    job_code,
    render_code,
    study_code,
    train_version,
    training_code,
)
from rocm_core.grid.costs import STABLE_DIFFUSION, costs_of
from rocm_core.grid.ensembles import Standards, combine
from rocm_core.grid.evaluation import (
    BEST,
    at_scale,
    evaluation_sets,
    generation_settings,
    inference_steps,
    lora_scales,
    sample_sets,
    scaled_sets,
    snapshot_prompts,
    training_sets,
)
from rocm_core.grid.gradients import compared_gradients, measured_steps
from rocm_core.grid.held_out import is_held_out
from rocm_core.grid.loading import given_config, load_config, parse_config
from rocm_core.grid.made import (
    DISTANCES,
    SCORED_TOGETHER,
    made_prompts,
    made_renderings,
    made_results,
    made_study,
    shown,
    shown_sections,
)
from rocm_core.grid.methods import METHODS, POLICIES, Method, name_of, parse_method
from rocm_core.grid.needs import beta_tries, offered
from rocm_core.grid.search import searched, settle
from rocm_core.grid.single_images import of_single_images
from rocm_core.grid.snapshots import snapshot_steps, state_settings
from rocm_core.grid.used import gating, listed, standardised, used_scorers
