"""The latent consistency model as a policy (equation 9 and algorithm 1 of the paper).

x_{k-1} ~ N(α(t_{k-1}) f_θ(x_k, ω, c, t_k), σ(t_{k-1})² I) for k = K … 2; x_0 = f_θ(x_1, ω, c, t_1).
Timesteps, boundary scalings and prediction types are those of diffusers' `LCMScheduler`. Guidance
enters through the embedding of ω where the U-Net has one (`time_cond_proj_dim`), never as a second
pass; without, as of a diffusion model with LCM-LoRA (arXiv 2311.05556), it is classifier-free, and
a scale of 1, which LCM-LoRA is made for, leaves it out.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rocm_core.errors import UserError
from rocm_core.policies.base import Policy


class _Step(NamedTuple):
    """Coefficients of one step: x̂0 = state·x + output·U-Net, mean = scale·(c_skip·x + c_out·x̂0)."""

    state: float
    output: float
    c_skip: float
    c_out: float
    scale: float


class ConsistencyPolicy(Policy):
    """lora: of a diffusion model, which then gets the scheduler of a consistency model.

    Raises `UserError` for a folder whose scheduler is of another kind.
    """

    guidance: Tensor | None  # (1, time_cond_proj_dim)

    def __init__(
        self,
        model: str,
        inference_steps: int,
        guidance_scale: float,
        device: torch.device,
        dtype: torch.dtype,
        lora: str | None = None,
    ) -> None:
        from diffusers import LCMScheduler

        super().__init__(model, device, dtype, lora)
        if lora is not None:
            self.scheduler = LCMScheduler.from_config(self.scheduler.config)
        config = self.scheduler.config
        if not isinstance(self.scheduler, LCMScheduler) or config.thresholding:
            raise UserError(
                f"{model} is no consistency model: it needs an LCMScheduler without thresholding, "
                "or a LoRA that makes it one"
            )
        try:
            self.scheduler.set_timesteps(inference_steps)
        except ValueError:
            most = config.original_inference_steps
            raise UserError(
                f"inference_steps must be 1 … {most} for {model}, not {inference_steps}"
            ) from None
        timesteps = self.scheduler.timesteps.tolist()
        alphas = {t: math.sqrt(self.scheduler.alphas_cumprod[t].item()) for t in timesteps}
        sigmas = {t: math.sqrt(1 - self.scheduler.alphas_cumprod[t].item()) for t in timesteps}

        self._plan = []
        for now, following in zip(timesteps, [*timesteps[1:], None], strict=True):
            state, output = _original(config.prediction_type, alphas[now], sigmas[now])
            c_skip, c_out = self.scheduler.get_scalings_for_boundary_condition_discrete(now)
            scale = 1.0 if following is None else alphas[following]
            self._plan.append(_Step(state, output, c_skip, c_out, scale))
        self._clip = config.clip_sample_range if config.clip_sample else None
        self.set_chain(timesteps, [sigmas[t] for t in timesteps[1:]])
        self.last_step = alphas[timesteps[-1]], sigmas[timesteps[-1]]
        width, embedding = self.unet.config.time_cond_proj_dim, None
        if width:
            embedding = guidance_embedding(guidance_scale, width).to(device, dtype)
        self.register_buffer("guidance", embedding, persistent=False)
        self.set_guidance(guidance_scale, passes=2 if guidance_scale > 1 and not width else 1)

    def mean(self, index: int, state: Tensor, embeddings: Tensor) -> Tensor:
        step = self._plan[index]
        output = self.guided(index, state, embeddings, self.guidance)
        original = step.state * state + step.output * output
        if self._clip is not None:
            original = original.clamp(-self._clip, self._clip)
        return step.scale * (step.c_skip * state + step.c_out * original)


def _original(prediction_type: str, alpha: float, sigma: float) -> tuple[float, float]:
    """x̂0 from the state and from the U-Net's output, by what the U-Net predicts."""
    if prediction_type == "epsilon":
        return 1 / alpha, -sigma / alpha
    if prediction_type == "v_prediction":
        return alpha, -sigma
    if prediction_type == "sample":
        return 0.0, 1.0
    raise UserError(
        f"prediction_type must be epsilon, v_prediction or sample, not {prediction_type!r}"
    )


def guidance_embedding(guidance_scale: float, width: int) -> Tensor:
    """Sinusoids of 1000·(guidance_scale - 1), `(1, width)`, as the diffusers pipeline has them."""
    half = width // 2
    frequency = torch.exp(torch.arange(half) * (-torch.log(torch.tensor(10000.0)) / (half - 1)))
    angle = torch.tensor(guidance_scale - 1) * 1000.0 * frequency
    return torch.nn.functional.pad(torch.cat([angle.sin(), angle.cos()]), (0, width % 2))[None]
