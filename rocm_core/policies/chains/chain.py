"""A K-step Gaussian chain in numbers.

Step k takes the state x_k and the network's output u at `input` · x_k to

    x̂0      = original · (x_k, u) / divisor, clipped to ±clip
    mean_k  = scale · (state x_k + signal x̂0 + output u)
    x_{k-1} ~ N(mean_k, std² I)

and is deterministic where std is 0. The first state is x_K ~ N(0, start² I). A module
`chains/<name>.py` with a function `make(schedule, steps) -> Chain` is a chain; a configuration
names it as `policies.<name>.chain`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rocm_core.errors import UserError

_NOTHING = 1e-4  # a share of image or noise that is rounding


@dataclass(frozen=True)
class Schedule:
    """What a model says of its noise: the content of its scheduler_config.json.

    model: the folder, for error messages. distilled: a LoRA was merged into the network, so that
    the configuration is that of the model before, and the class of its scheduler may be replaced.
    gamma, timesteps: what the configuration sets of a chain with these options, None where it does
    not. tokens: of an image in a transformer, by which some models shift their noise. sigmas: the
    noise levels at which the model's pipeline asks for K steps, None where the scheduler has them.
    """

    model: str
    config: Mapping[str, Any]
    distilled: bool = False
    gamma: float | None = None
    timesteps: tuple[int, ...] | None = None
    tokens: int | None = None
    sigmas: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Step:
    """The coefficients of one step, as above; `timestep` is what the network is given."""

    timestep: int | float
    original: tuple[float, float]  # of x_k and of u
    state: float
    signal: float
    output: float
    std: float
    scale: float = 1.0
    divisor: float = 1.0
    clip: float | None = None
    noise: float | None = None  # how far ε̂ moves with u; None: not known
    input: float = 1.0

    def noise_std(self, signal: float, std: float) -> float | None:
        """How far ε̂ moves the next state by one `std`, if that state is N(signal mean_k, std² I).

        None where the mean does not follow ε̂ along a line.
        """
        if self.noise is None or self.clip is not None:
            return None
        slope = self.signal * self.original[1] / self.divisor + self.output
        return abs(std * self.noise / (signal * self.scale * slope))


@dataclass(frozen=True)
class Chain:
    """Steps from x_K on; those that draw noise come first.

    start: standard deviation of x_K. last_step: (signal, std) of the noise level at which the one
    deterministic step starts, x_1 = signal x_0 + std ε; None where there is no such step, and where
    x_1 is all noise or all image. Raises `UserError` for a deterministic step before one that
    draws.
    """

    steps: tuple[Step, ...]
    last_step: tuple[float, float] | None = None
    start: float = 1.0

    def __post_init__(self) -> None:
        parts = [(*s.original, s.state, s.signal, s.output, s.std, s.input) for s in self.steps]
        numbers = [self.start, *(x for part in parts for x in part), *(self.noise_stds or ())]
        if not all(map(math.isfinite, numbers)):
            raise UserError("a chain's numbers must be finite: check the model's scheduler_config")
        if any(step.std for step in self.steps[len(self.stds) :]):
            raise UserError(
                "a chain's deterministic steps must come last, because a step without noise has no"
                f" density, but the standard deviations are {[step.std for step in self.steps]}"
            )

    def require_density(self, what: str) -> None:
        """Raise `UserError` if a step before the last draws no noise, of which `what` needs the
        density."""
        if len(self.stds) < len(self.steps) - 1:
            raise UserError(
                f"{what} is over the steps that draw noise, and of this chain others than the last"
                " draw none: give the policy a chain that draws, such as flow for a rectified flow,"
                " or tcd with a gamma above 0"
            )

    @property
    def stds(self) -> list[float]:
        """Standard deviations of the steps that draw noise."""
        return [step.std for step in self.steps if step.std > 0]

    @property
    def noise_stds(self) -> list[float] | None:
        """The same in units of the predicted noise ε̂: how far ε̂ moves a step's mean by one std.

        `last_step` follows, where there is one. None unless each mean is linear in ε̂.
        """
        levels = [(1.0, std) for std in self.stds]
        if self.last_step is not None:
            levels.append(self.last_step)
        found = [step.noise_std(*at) for step, at in zip(self.steps, levels, strict=False)]
        known = [std for std in found if std is not None]
        return known if len(known) == len(found) else None


def starting_at(signal: float, std: float) -> tuple[float, float] | None:
    """`Chain.last_step` of a chain whose only deterministic step starts at signal·x_0 + std·ε."""
    return (signal, std) if min(signal, std) > _NOTHING else None


def prediction(
    kind: str, signal: float, std: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The coefficients (of the state, of the output) of x̂0 and of ε̂.

    kind: what the network predicts, at a noise level with x = signal·x0 + std·ε. Raises `UserError`
    for any other kind than diffusers' three.
    """
    if kind == "epsilon":
        return (1 / signal, -std / signal), (0.0, 1.0)
    if kind == "v_prediction":
        return (signal, -std), (std, signal)
    if kind == "sample":
        return (0.0, 1.0), (1 / std, -signal / std)
    raise UserError(f"prediction_type must be epsilon, v_prediction or sample, not {kind!r}")


def set_timesteps(scheduler: Any, schedule: Schedule, steps: int) -> None:
    """Ask a distilled model's scheduler of diffusers for K steps, or for the timesteps of the
    configuration.

    Raises `UserError` for too many steps, for timesteps that are not K, and for what are none.
    """
    given, most = schedule.timesteps, schedule.config.get("num_train_timesteps", 1000)
    if given and ([*given] != sorted(given, reverse=True) or given[0] >= most):
        raise UserError(f"timesteps must fall, from below {most}, unlike {list(given)}")
    if given and len(given) != steps:
        raise UserError(
            f"timesteps are {len(given)}, {list(given)}, but inference_steps is {steps}: make them"
            " equally many"
        )
    try:
        scheduler.set_timesteps(None if given else steps, timesteps=list(given) if given else None)
    except ValueError:
        raise UserError(
            f"inference_steps must be 1 … {scheduler.config.original_inference_steps} for"
            f" {schedule.model}, not {steps}"
        ) from None
