"""The latent consistency model as a policy (equation 9 and algorithm 1 of the paper).

x_{k-1} ~ N(α(t_{k-1}) f_θ(x_k, ω, c, t_k), σ(t_{k-1})² I) for k = K … 2; x_0 = f_θ(x_1, ω, c, t_1).
Timesteps, boundary scalings and prediction types are those of diffusers' `LCMScheduler`; guidance
enters through the embedding of ω, never as a second pass.
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
    """Raises `UserError` for a folder whose scheduler or U-Net is of another kind."""

    def __init__(
        self,
        model: str,
        inference_steps: int,
        guidance_scale: float,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(model, device, dtype)
        config = self.scheduler.config
        width = self.unet.config.time_cond_proj_dim
        if type(self.scheduler).__name__ != "LCMScheduler" or config.thresholding or not width:
            raise UserError(
                f"{model} is no consistency model: it needs an LCMScheduler without thresholding "
                "and a U-Net with time_cond_proj_dim"
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
        embedding = guidance_embedding(guidance_scale, width)
        self.register_buffer("guidance", embedding.to(device, dtype), persistent=False)

    def mean(self, index: int, state: Tensor, embeddings: Tensor) -> Tensor:
        step = self._plan[index]
        with self.autocast():
            output = self.unet(
                state.to(self.dtype),
                self.timesteps[index],
                encoder_hidden_states=embeddings,
                timestep_cond=self.guidance,
                return_dict=False,
            )[0]
        original = step.state * state + step.output * output.to(state.dtype)
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
