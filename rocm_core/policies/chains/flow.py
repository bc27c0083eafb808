"""The chain of a few-step rectified flow: each step predicts the image and draws its noise anew.

With the velocity u = ε - x0 at x = (1 - σ) x0 + σ ε, x̂0 = x - σ u and the next state is
N((1 - σ') x̂0, σ'² I), as diffusers' `FlowMatchEulerDiscreteScheduler` with `stochastic_sampling`
and its `FlowMatchLCMScheduler` have it. Noise levels are the scheduler's, shifted as the model
says.
"""

from rocm_core.errors import UserError
from rocm_core.policies.chains.chain import Chain, Schedule, Step, starting_at

SCHEDULERS = ("FlowMatchLCMScheduler",)
DETERMINISTIC_LAST = True


def make(schedule: Schedule, steps: int) -> Chain:
    """Raises `UserError` for a model that is not a rectified flow."""
    times, sigmas = levels(schedule, steps)
    return Chain(
        tuple(
            Step(time, (1.0, -sigma), 0.0, 1 - after, 0.0, after)
            for time, sigma, after in zip(times, sigmas, sigmas[1:], strict=False)
        ),
        last_step=starting_at(1 - sigmas[-2], sigmas[-2]),
    )


def levels(schedule: Schedule, steps: int) -> tuple[list[float], list[float]]:
    """The times that the network is given, and the noise levels σ with the last one's, 0.

    Raises `UserError` for a model that is not a rectified flow.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    if not str(schedule.config.get("_class_name")).startswith("FlowMatch"):
        raise UserError(f"{schedule.model} is not a rectified flow: it needs a FlowMatch scheduler")
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(schedule.config)
    config, asked = scheduler.config, {}
    if config.invert_sigmas or schedule.config.get("scale_factors"):
        raise UserError(
            f"{schedule.model}: its scheduler must have neither invert_sigmas nor scale_factors"
        )
    if config.use_dynamic_shifting and schedule.tokens is not None:
        asked["mu"] = calculate_shift(
            schedule.tokens,
            *(config.base_image_seq_len, config.max_image_seq_len),
            *(config.base_shift, config.max_shift),
        )
    if schedule.sigmas is not None:
        asked["sigmas"] = list(schedule.sigmas)
    scheduler.set_timesteps(steps, **asked)
    return scheduler.timesteps.tolist(), scheduler.sigmas.tolist()
