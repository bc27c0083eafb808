"""The chain of an adversarially distilled model: ancestral Euler steps (SDXL-Turbo, SD-Turbo).

At x = x0 + σ ε, with σ_up² = σ'² (σ² - σ'²)/σ² and σ_down² = σ'² - σ_up², the next state is
N(x̂0 + σ_down/σ (x - x̂0), σ_up² I), as diffusers' `EulerAncestralDiscreteScheduler` has it. The
network is given x/√(σ² + 1).
"""

import math

from rocm_core.errors import UserError
from rocm_core.policies.chains.chain import Chain, Schedule, Step, starting_at

SCHEDULERS = ("EulerAncestralDiscreteScheduler",)
DETERMINISTIC_LAST = True


def make(schedule: Schedule, steps: int) -> Chain:
    """Raises `UserError` for a network that predicts anything but ε or v."""
    from diffusers import EulerAncestralDiscreteScheduler

    scheduler = EulerAncestralDiscreteScheduler.from_config(schedule.config)
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise UserError(f"{schedule.model}: its scheduler must predict epsilon or v_prediction")
    scheduler.set_timesteps(steps)
    sigmas, made = scheduler.sigmas.tolist(), []
    for time, sigma, after in zip(scheduler.timesteps.tolist(), sigmas, sigmas[1:], strict=False):
        root = math.hypot(sigma, 1)
        original = (1.0, -sigma) if kind == "epsilon" else (1 / root**2, -sigma / root)
        up = after * math.sqrt(max(0.0, 1 - (after / sigma) ** 2))
        down = math.sqrt(after**2 - up**2) / sigma
        noise = -original[1] / sigma
        made.append(Step(time, original, down, 1 - down, 0.0, up, input=1 / root, noise=noise))
    last_step = starting_at(1.0, sigmas[-2])
    return Chain(tuple(made), last_step, start=float(scheduler.init_noise_sigma))
