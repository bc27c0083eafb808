"""From a model's settings to its policy: a denoiser for the folder, a chain for its schedule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rocm_core.errors import UserError
from rocm_core.plugins import facts, load, names
from rocm_core.policies.chains.chain import Schedule
from rocm_core.policies.policy import Policy
from rocm_core.provenance import located
from rocm_core.weights import check_weights, require_finite

if TYPE_CHECKING:  # the environment of the published scorers has no pydantic
    from rocm_core.configuration import ModelSettings

INDEX, SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"


def load_policy(
    settings: ModelSettings,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Policy:
    """The frozen policy over the diffusers pipeline folder `settings.model`, in evaluation mode.

    dtype: of the networks; latents, means and distances are never below float32. A LoRA in
    `settings.model_lora` is merged, such as makes a diffusion model consistent. Raises `UserError`
    for a folder that is incomplete, cannot be read, or does not go with the chain, and for weights
    that are not finite.
    """
    folder, lora = located(settings.model), settings.model_lora
    denoiser = denoiser_of(folder / INDEX)
    check_weights(folder)
    config, make = _read(folder / SCHEDULER), load("chains", settings.chain, "chain").make
    networks = load("denoisers", denoiser).load(
        folder, settings.guidance_scale, torch.device(device), dtype, lora and str(located(lora))
    )
    if settings.resolution is not None:
        networks.resolution = settings.resolution
    steps = settings.inference_steps
    schedule = Schedule(
        settings.model,
        config,
        distilled=lora is not None,
        gamma=settings.gamma,
        timesteps=settings.timesteps,
        tokens=networks.tokens,
        sigmas=networks.sigmas(steps),
    )
    try:
        chain = make(schedule, steps)
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / SCHEDULER} does not make a chain ({error}): restore it"
        ) from None
    require_finite(f"{folder} with {lora}" if lora else folder, networks.state_dict())
    return Policy(networks, chain)


def own_resolution(model: str | Path) -> int | None:
    """Width and height that a pipeline folder's own configuration says; None where it does not."""
    folder = located(model)
    network = "unet" if (folder / "unet").is_dir() else "transformer"
    try:
        latents = _read(folder / network / "config.json")["sample_size"]
        decoder = _read(folder / "vae/config.json")
        blocks = decoder.get("block_out_channels") or decoder["decoder_block_out_channels"]
    except (UserError, KeyError):
        return None
    return latents * 2 ** (len(blocks) - 1)


def denoiser_of(index: Path) -> str:
    """The name of the denoiser for the pipeline class in a model_index.json."""
    pipeline = _read(index).get("_class_name")
    served = {name: facts("denoisers", name)["PIPELINES"] for name in names("denoisers")}
    known = {kind: name for name, kinds in served.items() for kind in kinds}
    if pipeline not in known:
        raise UserError(
            f"{index}: no denoiser is for the pipeline {pipeline!r}, only for {', '.join(known)}"
        )
    return known[pipeline]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path.parent} is not a folder of a diffusers pipeline: {path.name} cannot be read"
            f" ({error})"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object: restore it")
    return content
