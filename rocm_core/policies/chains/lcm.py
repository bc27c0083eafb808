"""The chain of a latent consistency model (equation 9 and algorithm 1 of the paper).

x_{k-1} ~ N(α(t_{k-1}) f_θ(x_k, ω, c, t_k), σ(t_{k-1})² I) for k = K … 2; x_0 = f_θ(x_1, ω, c, t_1).
Timesteps, boundary scalings and prediction types are those of diffusers' `LCMScheduler`. A
diffusion model with a LoRA that makes it consistent (LCM-LoRA, arXiv 2311.05556) gets that
scheduler on its own noise schedule.
"""

import math

from rocm_core.errors import UserError
from rocm_core.policies.chains.chain import (
    Chain,
    Schedule,
    Step,
    prediction,
    set_timesteps,
    starting_at,
)

SCHEDULERS = ("LCMScheduler",)
OPTIONS = ("timesteps",)
DETERMINISTIC_LAST = True


def make(schedule: Schedule, steps: int) -> Chain:
    """Raises `UserError` for a model that is not a consistency model, and for too many steps."""
    from diffusers import LCMScheduler

    named = schedule.config.get("_class_name") == "LCMScheduler"
    scheduler = LCMScheduler.from_config(schedule.config)
    config = scheduler.config
    if not (named or schedule.distilled) or config.thresholding:
        raise UserError(
            f"{schedule.model} is not a consistency model: it needs an LCMScheduler without "
            "thresholding, or a LoRA that makes it one"
        )
    set_timesteps(scheduler, schedule, steps)
    timesteps = scheduler.timesteps.tolist()
    levels = [scheduler.alphas_cumprod[t].item() for t in timesteps]
    signals, stds = ([math.sqrt(x) for x in y] for y in (levels, [1 - x for x in levels]))
    made = []
    # Each step ends at the noise level of the next one, and the last one at the image.
    after = zip([*signals[1:], 1.0], [*stds[1:], 0.0], strict=True)
    for timestep, signal, std, (scale, drawn) in zip(timesteps, signals, stds, after, strict=True):
        original, (_, noise) = prediction(config.prediction_type, signal, std)
        c_skip, c_out = scheduler.get_scalings_for_boundary_condition_discrete(timestep)
        clip = config.clip_sample_range if config.clip_sample else None
        made.append(
            Step(timestep, original, c_skip, c_out, 0.0, drawn, scale, clip=clip, noise=noise)
        )
    return Chain(tuple(made), last_step=starting_at(signals[-1], stds[-1]))
