"""A latent diffusion model as a policy: DDIM with η = 1 (Song et al. 2021, equations 12 and 16).

x_{t'} ~ N(√ᾱ' x̂0 + √(1 - ᾱ' - σ²) ε, σ² I) with σ² = η² (1 - ᾱ')/(1 - ᾱ)·(1 - ᾱ/ᾱ'), ε from
classifier-free guidance: two passes of the U-Net for each step. Timesteps and the noise schedule
are those of diffusers' `DDIMScheduler` on the model's own scheduler configuration.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rocm_core.errors import UserError
from rocm_core.policies.base import Policy


class _Step(NamedTuple):
    """Coefficients of one step, of its state's signal and noise and of its mean's."""

    signal: float
    noise: float
    mean_signal: float
    mean_noise: float


# What other classes of schedulers leave open, as diffusers' StableDiffusionPipeline has it; the
# DDIMScheduler's own defaults are for pixels, and would clip latents.
_LATENT = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


class DiffusionPolicy(Policy):
    """`guidance_scale` 1 takes one pass a step. Where the schedule ends at ᾱ' = 1, or comes to
    timestep 0, the last step is deterministic; Stable Diffusion's does neither.

    Raises `UserError` for a consistency model and for a scheduler that DDIM cannot stand in for.
    """

    eta = 1.0

    def __init__(
        self,
        model: str,
        inference_steps: int,
        guidance_scale: float,
        device: torch.device,
        dtype: torch.dtype,
        lora: str | None = None,
    ) -> None:
        from diffusers import DDIMScheduler

        super().__init__(model, device, dtype, lora)
        if self.unet.config.time_cond_proj_dim is not None:
            raise UserError(f"{model} is a consistency model: name its policy consistency")
        given = self.scheduler.config
        if not isinstance(self.scheduler, DDIMScheduler):
            left_open = ["_use_default_values", *given.get("_use_default_values", [])]
            given = {**_LATENT, **{k: v for k, v in given.items() if k not in left_open}}
        scheduler = DDIMScheduler.from_config(given)
        config = scheduler.config
        if config.thresholding or config.prediction_type not in ("epsilon", "v_prediction"):
            raise UserError(
                f"{model}: its scheduler must predict epsilon or v_prediction, without thresholding"
            )
        try:
            scheduler.set_timesteps(inference_steps)
            signals = scheduler.alphas_cumprod[scheduler.timesteps]
        except (ValueError, IndexError):  # an offset can put the first step beyond the schedule
            raise UserError(
                f"inference_steps: {inference_steps} steps do not fit into the "
                f"{config.num_train_timesteps} timesteps of {model}"
            ) from None
        if config.prediction_type == "epsilon" and not signals.all():
            raise UserError(
                f"{model}: at a timestep without signal its U-Net must predict v, not epsilon"
            )
        timesteps, stride = scheduler.timesteps.tolist(), config.num_train_timesteps
        self._velocity = config.prediction_type == "v_prediction"
        self._clip = config.clip_sample_range if config.clip_sample else None
        self._plan, stds = [], []
        known, final = scheduler.alphas_cumprod.tolist(), scheduler.final_alpha_cumprod.item()
        for timestep in timesteps:
            following = timestep - stride // inference_steps
            alpha, after = known[timestep], final if following < 0 else known[following]
            std = self.eta * math.sqrt((1 - after) / (1 - alpha) * (1 - alpha / after))
            direction = math.sqrt(max(0.0, 1 - after - std**2))
            self._plan.append(
                _Step(math.sqrt(alpha), math.sqrt(1 - alpha), math.sqrt(after), direction)
            )
            stds.append(std)
        self.set_chain(timesteps, [std for std in stds if std > 0])
        self.set_guidance(guidance_scale, passes=1 if guidance_scale == 1 else 2)

    def mean(self, index: int, state: Tensor, embeddings: Tensor) -> Tensor:
        step = self._plan[index]
        output = self.guided(index, state, embeddings)
        if self._velocity:
            original = step.signal * state - step.noise * output
            noise = step.signal * output + step.noise * state
        else:
            original, noise = (state - step.noise * output) / step.signal, output
        if self._clip is not None:
            original = original.clamp(-self._clip, self._clip)
        return step.mean_signal * original + step.mean_noise * noise
