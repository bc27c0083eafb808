"""Loading a policy by its name."""

import importlib
from typing import Any

import torch

from rocm_core.errors import UserError
from rocm_core.policies.base import Policy

POLICIES = ("consistency", "diffusion")


def load_policy(
    name: str,
    model: str,
    inference_steps: int,
    guidance_scale: float,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    lora: str | None = None,
) -> Policy:
    """The frozen policy `name` over the diffusers pipeline folder `model`, in evaluation mode.

    guidance_scale: diffusers' convention, ε_uncond + scale·(ε_cond - ε_uncond); equation 4 of the
    paper and the LCM paper count from zero: their ω is `guidance_scale - 1`.
    dtype: of the networks; latents, means and distances are never below float32.
    lora: the folder of one to be merged into the U-Net, such as makes a diffusion model consistent.
    """
    if name not in POLICIES:
        raise UserError(f"there is no policy {name!r}: choose one of {', '.join(POLICIES)}")
    module = importlib.import_module(f"rocm_core.policies.{name}")
    found = (value for value in vars(module).values() if isinstance(value, type))
    own = (value for value in found if value.__module__ == module.__name__)
    policy: Any = next(value for value in own if issubclass(value, Policy))
    return policy(model, inference_steps, guidance_scale, torch.device(device), dtype, lora)
