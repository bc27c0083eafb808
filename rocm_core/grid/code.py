"""Code fingerprints of jobs: which modules compute what a cell, an image or a score is."""

import json
from collections.abc import Sequence

from rocm_core.configuration import (
    GenerationSettings,
    ModelSettings,
    PromptSettings,
    TrainingSettings,
)
from rocm_core.plugins import module_of, names
from rocm_core.provenance import code_fingerprint, digest_of


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


def monitor_code(settings: GenerationSettings, metrics: Sequence[str]) -> str:
    """Code fingerprint of judging a cell's snapshots."""
    return code_fingerprint("workflow/scripts/monitor.py", *_policy(settings), *_scorers(metrics))


def _policy(settings: ModelSettings) -> list[str]:
    """The chain's module and every denoiser's. A job uses only the denoiser that model_index.json
    asks for, but that file may be fetched after its fingerprint was taken, and the fingerprint must
    not change by that."""
    denoisers = [module_of("denoisers", name, "model") for name in names("denoisers")]
    return [module_of("chains", settings.chain, "chain"), *denoisers]


def _scorers(metrics: Sequence[str]) -> list[str]:
    return [module_of("rewards", metric, "metrics") for metric in metrics]
