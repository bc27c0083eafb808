"""The chain of a rectified flow as its scheduler says: without noise, x' = x + (σ' - σ) u.

That is diffusers' `FlowMatchEulerDiscreteScheduler`, which has no densities: only rewards without a
divergence can be trained on. With its `stochastic_sampling` it is the chain `flow`.
"""

from rocm_core.policies.chains import flow
from rocm_core.policies.chains.chain import Chain, Schedule, Step

SCHEDULERS = ("FlowMatchEulerDiscreteScheduler",)
DETERMINISTIC_LAST = True
DRAWS_WITH = "stochastic_sampling"


def make(schedule: Schedule, steps: int) -> Chain:
    """Raises `UserError` for a model that is not a rectified flow."""
    if schedule.config.get("stochastic_sampling"):
        return flow.make(schedule, steps)
    times, sigmas = flow.levels(schedule, steps)
    return Chain(
        tuple(
            Step(time, (1.0, -sigma), 1.0, 0.0, after - sigma, 0.0)
            for time, sigma, after in zip(times, sigmas, sigmas[1:], strict=False)
        )
    )
