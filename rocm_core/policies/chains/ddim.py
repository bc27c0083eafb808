"""The chain of a diffusion model: DDIM with η = 1 (Song et al. 2021, equations 12 and 16).

x_{t'} ~ N(√ᾱ' x̂0 + √(1 - ᾱ' - σ²) ε̂, σ² I) with σ² = η² (1 - ᾱ')/(1 - ᾱ)·(1 - ᾱ/ᾱ'). Timesteps and
the noise schedule are those of diffusers' `DDIMScheduler` on the model's own scheduler
configuration. Where the schedule ends at ᾱ' = 1, or comes to timestep 0, the last step is
deterministic; Stable Diffusion's does neither.
"""

import math

from rocm_core.errors import UserError
from rocm_core.policies.chains.chain import Chain, Schedule, Step, prediction, starting_at

DETERMINISTIC_LAST = "set_alpha_to_one"
ETA = 1.0
# What other classes of schedulers leave open, as diffusers' StableDiffusionPipeline has it; the
# DDIMScheduler's own defaults are for pixels, and would clip latents.
_LATENT = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


def make(schedule: Schedule, steps: int) -> Chain:
    """Raises `UserError` for a consistency model, and for a scheduler that DDIM cannot replace."""
    from diffusers import DDIMScheduler

    model, given = schedule.model, dict(schedule.config)
    if given.get("_class_name") == "LCMScheduler":
        raise UserError(f"{model} is a consistency model: name its policy consistency")
    if given.get("_class_name") != "DDIMScheduler":
        given = {**_LATENT, **given}
    scheduler = DDIMScheduler.from_config(given)
    config = scheduler.config
    if config.thresholding or config.prediction_type not in ("epsilon", "v_prediction"):
        raise UserError(
            f"{model}: its scheduler must predict epsilon or v_prediction, without thresholding"
        )
    try:
        scheduler.set_timesteps(steps)
        signals = scheduler.alphas_cumprod[scheduler.timesteps]
    except (ValueError, IndexError):  # an offset can put the first step beyond the schedule
        raise UserError(
            f"inference_steps: {steps} steps do not fit into the "
            f"{config.num_train_timesteps} timesteps of {model}"
        ) from None
    if config.prediction_type == "epsilon" and not signals.all():
        raise UserError(
            f"{model}: at a timestep without signal its network must predict v, not epsilon"
        )
    clip = config.clip_sample_range if config.clip_sample else None
    known, final = scheduler.alphas_cumprod.tolist(), scheduler.final_alpha_cumprod.item()
    made = []
    for timestep in scheduler.timesteps.tolist():
        following = timestep - config.num_train_timesteps // steps
        alpha, after = known[timestep], final if following < 0 else known[following]
        std = ETA * math.sqrt((1 - after) / (1 - alpha) * (1 - alpha / after))
        direction = math.sqrt(max(0.0, 1 - after - std**2))
        signal, level = math.sqrt(alpha), math.sqrt(1 - alpha)
        (original, noise), divisor = prediction(config.prediction_type, signal, level), 1.0
        if config.prediction_type == "epsilon":
            # Divided last, as diffusers does: at first the quotient magnifies rounding.
            original, divisor = (1.0, -level), signal
        state, output = (direction * part for part in noise)
        keep = math.sqrt(after)
        step = Step(timestep, original, state, keep, output, std, 1.0, divisor, clip, noise[1])
        made.append(step)
    last_step = None
    if not std:
        last_step = starting_at(math.sqrt(alpha / after), math.sqrt(1 - alpha / after))
    return Chain(tuple(made), last_step)
