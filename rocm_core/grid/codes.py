"""Code fingerprints: which modules compute what a cell, an image, a score or a figure is."""

import itertools
import json
from collections.abc import Sequence

from rocm_core.configuration import Config, ModelSettings, TrainingSettings
from rocm_core.grid.cells import make_grid
from rocm_core.grid.models import denoiser_modules
from rocm_core.grid.needs import offered
from rocm_core.grid.snapshots import state_settings
from rocm_core.grid.used import gating, rewarding, used_scorers
from rocm_core.plugins import KINDS, facts, module_of, names
from rocm_core.provenance import code_fingerprint, digest_of, module_closure


def job_code(
    script: str, settings: ModelSettings | None = None, metrics: Sequence[str] = ()
) -> str:
    """Code fingerprint of a job: of its script in workflow/scripts/, of the plug-ins that its
    `settings` name, and of the scorers of its `metrics`."""
    return code_fingerprint(f"workflow/scripts/{script}.py", *_plugins(settings, metrics))


def training_code(settings: TrainingSettings) -> str:
    """Code fingerprint of a training that no workflow starts."""
    return code_fingerprint("rocm_core.training.job", *_plugins(settings))


def _plugins(settings: ModelSettings | None, metrics: Sequence[str] = ()) -> list[str]:
    """The modules that they load by name. Of the denoisers the model's own counts, or every one
    where it is not known yet: what is fetched after the fingerprint was taken must not change it.
    """
    modules = [module_of("rewards", metric, "metrics") for metric in metrics]
    if settings:
        modules += denoiser_modules(settings.model)
        modules.append(module_of("chains", settings.chain, "chain"))
    if isinstance(settings, TrainingSettings):
        modules.append(module_of("algorithms", settings.algorithm, "algorithm"))
        seen = rewarding(settings) + gating(settings)
        modules += [module_of("rewards", name, "reward") for name in seen]
        if settings.divergence != "none":
            modules.append(module_of("divergences", settings.divergence, "divergence"))
    return modules


def study_code(step: str) -> str:
    """Code fingerprint of the user study's page (build) or results (aggregate)."""
    return code_fingerprint(f"rocm_core.study.{step}")


def train_version(settings: TrainingSettings, weights: str, processes: int) -> str:
    """What names the state of a cell's unfinished training: a digest of all that decides it.

    weights: a digest of what the training loads. A state of another version is left alone.
    """
    parts = {
        "settings": json.dumps(state_settings(settings), sort_keys=True),
        "code": job_code("train", settings),
        "weights": weights,
        "processes": str(processes),
    }
    return digest_of(parts)[:16]


def render_code(kind: str, name: str, config: Config) -> str:
    """Code fingerprint of a table, a figure, the claims or the report, which shows the tables.

    The facts of the configuration's plug-ins belong to it: they are read without an import.
    """
    module = {"claims": "rocm_core.claims.ledger", "report": "rocm_core.report.build"}
    shown = offered("tables", config) if kind == "report" else []
    modules = [
        "workflow/scripts/render.py",
        module.get(kind) or module_of(f"{kind}s", name, f"{kind}s"),
        *(module_of("tables", table, "tables") for table in shown),
    ]
    closure = module_closure(*modules)
    modules += [  # what imports the `loading` of a room loads by name, and so may load any
        module_of(kind, name, kind)
        for kind in KINDS
        if f"{KINDS[kind].room}.loading" in closure
        for name in names(kind)
    ]
    return digest_of({"code": code_fingerprint(*modules), "facts": _facts(config)})


def _facts(config: Config) -> str:
    """The facts of the plug-ins that a configuration's cells and metrics name."""
    of_cells = [cell.settings for cell in make_grid(config)]
    used = {
        "rewards": {*config.metrics, *itertools.chain(*map(used_scorers, of_cells))},
        "algorithms": {settings.algorithm for settings in of_cells},
        "divergences": {settings.divergence for settings in of_cells} - {"none"},
    }
    known = {f"{kind} {name}": facts(kind, name) for kind in used for name in used[kind]}
    return json.dumps(known, sort_keys=True)
