"""The chain of trajectory consistency distillation (arXiv 2402.19159).

With s = ⌊(1 - γ) t'⌋, x_s = √ᾱ_s x̂0 + √(1 - ᾱ_s) ε̂ and x_{t'} ~ N(√(ᾱ'/ᾱ_s) x_s, (1 - ᾱ'/ᾱ_s) I): γ
is the share of a step that draws anew. At 0 no step draws, at 1 the chain is that of a consistency
model. Timesteps and noise schedule are those of diffusers' `TCDScheduler`, whose `eta` is γ.
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

SCHEDULERS = ("TCDScheduler",)
OPTIONS = ("gamma", "timesteps")
DRAWS_WITH = "gamma"
DETERMINISTIC_LAST = True
GAMMA = 0.3  # diffusers' and the paper's


def make(schedule: Schedule, steps: int) -> Chain:
    """Raises `UserError` for a model that was not distilled, and for too many steps."""
    from diffusers import TCDScheduler

    named = schedule.config.get("_class_name") == "TCDScheduler"
    scheduler = TCDScheduler.from_config(schedule.config)
    config, gamma = scheduler.config, GAMMA if schedule.gamma is None else schedule.gamma
    if not (named or schedule.distilled) or config.thresholding:
        raise UserError(
            f"{schedule.model} was not distilled to a trajectory: it needs a TCDScheduler without "
            "thresholding, or a LoRA that makes it consistent"
        )
    set_timesteps(scheduler, schedule, steps)
    timesteps, known = scheduler.timesteps.tolist(), scheduler.alphas_cumprod.tolist()
    made: list[Step] = []
    for timestep, following in zip(timesteps, [*timesteps[1:], 0], strict=True):
        between = math.floor((1 - gamma) * following)
        alpha, after, mid = known[timestep], known[following], known[between]
        signal, level = math.sqrt(alpha), math.sqrt(1 - alpha)
        (original, noise), divisor = prediction(config.prediction_type, signal, level), 1.0
        if config.prediction_type == "epsilon":
            # Divided last, as diffusers does: at first the quotient magnifies rounding.
            original, divisor = (1.0, -level), signal
        keep, direction, shrink, std = math.sqrt(mid), math.sqrt(1 - mid), 1.0, 0.0
        if gamma and len(made) < len(timesteps) - 1:  # the last stays at s
            shrink, std = math.sqrt(after / mid), math.sqrt(1 - after / mid)
        state, output = (direction * part for part in noise)
        made.append(
            Step(
                *(timestep, original, state, keep, output, std),
                scale=shrink,
                divisor=divisor,
                noise=noise[1],
            )
        )
    # x_0 is still at the noise level of timestep 0, so that this is between that and the last one.
    share = known[timesteps[-1]] / known[0]
    alone = gamma or len(made) == 1
    return Chain(
        tuple(made),
        last_step=starting_at(math.sqrt(share), math.sqrt(1 - share)) if alone else None,
    )
