"""The chain of a continuous-time consistency model in TrigFlow's angles (arXiv 2410.11081).

At x = cos t x0 + sin t z, z ~ N(0, σ_d² I), the next state is N(cos t' x̂0, sin²t' σ_d² I) with
x̂0 = cos t x - sin t v̂, as diffusers' `SCMScheduler` has it. SANA-Sprint's network was made from a
rectified flow: its time is s = sin t/(sin t + cos t), and v̂ follows from its output u at
x √(s² + (1 - s)²)/σ_d as in SANA-Sprint (arXiv 2503.09641). Two steps are at its angles
π/2 and 1.3, other numbers at equal distances.
"""

import math

from rocm_core.errors import UserError
from rocm_core.policies.chains.chain import Chain, Schedule, Step, starting_at

SCHEDULERS = ("SCMScheduler",)
DETERMINISTIC_LAST = True


def make(schedule: Schedule, steps: int) -> Chain:
    """Raises `UserError` for a model that is not of TrigFlow."""
    from diffusers import SCMScheduler

    if schedule.config.get("_class_name") != "SCMScheduler":
        raise UserError(f"{schedule.model} is not of TrigFlow: it needs an SCMScheduler")
    scheduler = SCMScheduler.from_config(schedule.config)
    if scheduler.config.prediction_type != "trigflow":
        raise UserError(f"{schedule.model}: its scheduler must predict trigflow")
    scheduler.set_timesteps(steps, **({} if steps == 2 else {"intermediate_timesteps": None}))
    angles, size = scheduler.timesteps.tolist(), scheduler.config.sigma_data
    made: list[Step] = []
    for angle, after in zip(angles, angles[1:], strict=False):
        cosine, sine = math.cos(angle), math.sin(angle)
        time = sine / (sine + cosine)
        norm = math.hypot(time, 1 - time)
        # v̂/σ_d = ((1 - 2s) norm x/σ_d + (1 - 2s + 2s²) u)/norm
        original = (cosine - sine * (1 - 2 * time), -sine * size * norm)
        last = len(made) == steps - 1
        std = 0.0 if last else math.sin(after) * size
        keep, scale = (1.0, 1 / size) if last else (math.cos(after), 1.0)
        made.append(Step(time, original, 0.0, keep, 0.0, std, scale, input=norm / size))
    # x_0 is x̂0/σ_d.
    last_step = starting_at(math.cos(angles[-2]) * size, math.sin(angles[-2]) * size)
    return Chain(tuple(made), last_step, start=size)
