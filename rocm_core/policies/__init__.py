"""Policies: a chain of K Gaussian steps over latents, with a LoRA-adapted denoiser inside."""

from rocm_core.policies.compilation import compile_network, uncompiled
from rocm_core.policies.denoisers import HIDDEN, Embeddings
from rocm_core.policies.loading import load_policy, own_resolution
from rocm_core.policies.lora import (
    add_adapter,
    add_reference,
    load_lora,
    lora_alpha,
    lora_parameters,
    merge_lora,
    reference,
    save_lora,
    scale_lora,
)
from rocm_core.policies.noise import gaussian, integer, permutation
from rocm_core.policies.policy import COMPILED_MODES, MODES, ActivationCheckpointing, Policy
from rocm_core.policies.transition import Trajectory, Transition
