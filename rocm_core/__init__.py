"""ROCM (RLHF on consistency models, arXiv 2503.06171): policies, divergences, rewards, a trainer.

The names below load their room on first use, so that ``import rocm_core`` is instant.
"""

import importlib
from typing import Any

from rocm_core._torchvision import repair_when_imported

__version__ = "0.1.0"

_ROOMS = {
    "Policy": "policies",
    "load_policy": "policies",
    "load_divergence": "divergences",
    "Reward": "rewards",
    "load_reward": "rewards",
    "load_algorithm": "algorithms",
    "load_settings": "algorithms",
    "ModelSettings": "configuration",
    "TrainingSettings": "configuration",
    "GenerationSettings": "configuration",
    "Prompt": "prompts",
    "train": "training",
    "generate": "evaluation",
    "UserError": "errors",
}
__all__ = list(_ROOMS)

repair_when_imported()


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'rocm_core' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rocm_core.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
