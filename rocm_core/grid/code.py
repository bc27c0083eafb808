"""Code fingerprints of jobs: which modules compute what a cell, an image or a score is."""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rocm_core.configuration import (
    GenerationSettings,
    ModelSettings,
    PromptSettings,
    TrainingSettings,
)
from rocm_core.grid.cells import make_grid
from rocm_core.plugins import KINDS, facts, module_of, names
from rocm_core.provenance import code_fingerprint, digest_of, module_closure

if TYPE_CHECKING:
    from rocm_core.configuration import Config


def prompts_code(settings: PromptSettings) -> str:
    """Code fingerprint of the job that makes a prompt set."""
    embedded = ["rocm_core.shapes.scenes"] if settings.source == "shapes" else []
    return code_fingerprint("workflow/scripts/make_prompts.py", "rocm_core.prompts.sets", *embedded)


def train_code(settings: TrainingSettings) -> str:
    """Code fingerprint of a cell's training."""
    modules = [
        *_policy(settings),
        module_of("algorithms", settings.algorithm, "algorithm"),
        module_of("rewards", settings.reward, "reward"),
    ]
    if settings.divergence != "none":
        modules.append(module_of("divergences", settings.divergence, "divergence"))
    return code_fingerprint("workflow/scripts/train.py", *modules)


def train_version(settings: TrainingSettings, weights: str, processes: int) -> str:
    """What names the state of a cell's unfinished training: a digest of all that decides it.

    weights: a digest of what the training loads. A state of another version is left alone.
    """
    parts = {
        "settings": json.dumps(settings.to_dict(), sort_keys=True),
        "code": train_code(settings),
        "weights": weights,
    }
    if processes > 1:
        parts["processes"] = str(processes)
    return digest_of(parts)[:16]


def generate_code(settings: GenerationSettings) -> str:
    """Code fingerprint of making images."""
    return code_fingerprint("workflow/scripts/generate.py", *_policy(settings))


def score_code(metrics: Sequence[str]) -> str:
    """Code fingerprint of scoring images by `metrics`."""
    return code_fingerprint("workflow/scripts/score.py", *_scorers(metrics))


def measure_code() -> str:
    """Code fingerprint of measuring read-outs."""
    return code_fingerprint("workflow/scripts/measure.py")


def snapshots_code(settings: GenerationSettings, metrics: Sequence[str]) -> str:
    """Code fingerprint of judging a cell's snapshots."""
    return code_fingerprint(
        "workflow/scripts/evaluate_snapshots.py", *_policy(settings), *_scorers(metrics)
    )


def _policy(settings: ModelSettings) -> list[str]:
    """The chain's module and every denoiser's. A job uses only the denoiser that model_index.json
    asks for, but that file may be fetched after its fingerprint was taken, and the fingerprint must
    not change by that."""
    denoisers = [module_of("denoisers", name, "model") for name in names("denoisers")]
    return [module_of("chains", settings.chain, "chain"), *denoisers]


def _scorers(metrics: Sequence[str]) -> list[str]:
    return [module_of("rewards", metric, "metrics") for metric in metrics]


def published_code() -> str:
    """Code fingerprint of scoring images by the published packages."""
    return code_fingerprint("workflow/scripts/score_published.py")


def agreement_code() -> str:
    """Code fingerprint of comparing our scores with the published packages'."""
    return code_fingerprint("workflow/scripts/scorer_agreement.py")


def render_code(kind: str, name: str, config: "Config", tables: Iterable[str] = ()) -> str:
    """Code fingerprint of a table, a figure, the claims or the report, which shows `tables`.

    The facts of the configuration's plug-ins belong to it: they are read without an import.
    """
    module = {"claims": "rocm_core.claims.ledger", "report": "rocm_core.report.build"}
    modules = [
        "workflow/scripts/render.py",
        module.get(kind) or module_of(f"{kind}s", name, f"{kind}s"),
        *(module_of("tables", table, "tables") for table in tables),
    ]
    return digest_of(
        {"code": code_fingerprint(*modules, *_found_by_name(modules)), "facts": _facts(config)}
    )


def _facts(config: "Config") -> str:
    """The facts of the plug-ins that a configuration's cells and metrics name."""
    of_cells = [cell.settings for cell in make_grid(config)]
    used = {
        "rewards": {*config.metrics, *config.rewards},
        "algorithms": {settings.algorithm for settings in of_cells},
        "divergences": {settings.divergence for settings in of_cells} - {"none"},
    }
    known = {f"{kind} {name}": facts(kind, name) for kind in used for name in used[kind]}
    return json.dumps(known, sort_keys=True)


def _found_by_name(modules: Sequence[str]) -> list[str]:
    """The plug-ins of each room whose `loading` is imported: what loads by name may load any."""
    closure = module_closure(*modules)
    return [
        module_of(kind, name, kind)
        for kind in KINDS
        if f"{KINDS[kind].room}.loading" in closure
        for name in names(kind)
    ]
