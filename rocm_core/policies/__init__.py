"""Policies: K-step Gaussian chains over latents, with a LoRA-adapted network inside."""

from rocm_core.policies.base import (
    COMPILED_MODES,
    MODES,
    Policy,
    Recomputation,
    Trajectory,
    Transition,
)
from rocm_core.policies.consistency import guidance_embedding
from rocm_core.policies.loading import load_policy
from rocm_core.policies.lora import (
    add_adapter,
    load_lora,
    lora_parameters,
    merge_lora,
    reference,
    save_lora,
)
from rocm_core.policies.noise import gaussian, integer, permutation

__all__ = [
    "COMPILED_MODES",
    "MODES",
    "Policy",
    "Recomputation",
    "Trajectory",
    "Transition",
    "add_adapter",
    "gaussian",
    "guidance_embedding",
    "integer",
    "load_lora",
    "load_policy",
    "lora_parameters",
    "merge_lora",
    "permutation",
    "reference",
    "save_lora",
]
