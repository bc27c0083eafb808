"""What an algorithm is, what it is given, settings that several share, and loading one by name.

The modules of algorithms are imported for their settings alone, too, so torch waits in functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field

from rocm_core.configuration import (
    OPTIONAL,
    Scorers,
    TrainingSettings,
    items,
    number,
    settings_class,
)
from rocm_core.errors import UserError
from rocm_core.plugins import load

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rocm_core.policies import Embeddings, Policy
    from rocm_core.rewards import Reward


class RegularisedSettings(TrainingSettings):
    """Of an algorithm that subtracts β times a divergence: a controller can adapt its β."""

    regularises: ClassVar[bool] = True
    step_weights: Annotated[
        Annotated[tuple[Annotated[float, number(0, 1e9)], ...], items(1, distinct=False)] | None,
        OPTIONAL,
    ] = None
    """Weights of the divergences of the chain's steps, from the noise on, in place of 1 for each;
    one for each step that draws noise, and one for the last with `last_step_divergence`."""
    last_step_divergence: Annotated[bool, OPTIONAL] = False
    """Regularise a last step that draws no noise too. Its divergence would be infinite, so both
    images are put to the noise level at which the step starts, where RLCM's release has its
    density, and compared there."""

    gate_by: Annotated[Scorers | None, OPTIONAL] = None
    """One or several scorers that say where the reward is not to be trusted: only images that the
    reward rates higher than they do on average, in standard deviations of the base's scores, are
    subject to the divergence. They count as used: no table evaluates the training by them. null:
    all images are."""
    gate_above: Annotated[
        float, number(-1000, 1000, "SD"), Field(exclude_if=lambda value: value == 0)
    ] = 0.0
    """With `gate_by`: how much higher."""


class BackpropagationSettings(TrainingSettings):
    """Of an algorithm that backpropagates through the whole trajectory (`DIFFERENTIATES`)."""

    backpropagates: ClassVar[bool] = True
    memory: Annotated[float, number(0.001, 1e6, "GiB")] | Literal["auto"] = "auto"
    """Most memory that a training step may take, weights included; `auto` is what the device has.
    Where activations do not fit, each step of the chain or each block of the networks is computed
    again in the backward pass: more time, the same gradient."""
    compile: bool = False
    """Compile the U-Net with torch.compile, for direct optimisation: minutes at the start of each
    training and after each interruption, faster steps after; for long ones. The same gradient,
    rounded differently."""


class ReducedSettings(TrainingSettings):
    """Of an algorithm that looks at distances of latents."""

    reduction: Literal["sum", "mean"] = "sum"
    """How the latent's dimensions are reduced, summed or averaged, in the squared distance of two
    means before the divergence is taken of it, and in log-probabilities. The paper does not say;
    its peers take the mean."""


@dataclass(frozen=True)
class Batch:
    """N prompts with their embeddings and a rollout's noise `(N, K, C, h, w)`."""

    prompts: Sequence[str]
    embeddings: Embeddings
    noise: Tensor


class Optimiser(Protocol):
    """What an algorithm may do to the policy's adapter, and ask of the run's other processes."""

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradient to what has gathered since the last `step`."""

    def step(self) -> None:
        """Average the gradients over processes, clip, update the adapter, start from zero."""

    def gather(self, values: list[Any]) -> list[Any]:
        """Plain values of all processes, in the processes' order."""

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients of an algorithm's own parameters over processes."""


@dataclass(frozen=True)
class Statistics:
    """What an update saw, per image: for the history, and to tell a broken batch."""

    reward: Tensor  # (N,)
    loss: Tensor  # ()
    divergence: Tensor  # (N,) summed over the stochastic steps
    squared_distances: Tensor | None  # (N, K-1), summed over latent dimensions; None: not computed
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)  # (), further columns


# Which of N images, their prompts and rewards (N,), are subject to the divergence: 1 or 0, (N,).
Gate = Callable[["Tensor", Sequence[str], "Tensor"], "Tensor"]


class Algorithm(ABC):
    """An update rule; `settings.beta` is a number by now, and the trainer may change `beta`, and
    give it a `gate`.

    divergence: of transitions of the policy and of the reference; None for `none`.
    reference: how its rollouts that carry gradient evaluate the reference, see `Policy.rollout`.
    scorings: images that it has scored for each one of a batch.
    """

    reference: Literal["full", "stop"] | None = None
    scorings: int = 1

    def __init__(self, settings: TrainingSettings) -> None:
        from rocm_core.divergences import load_divergence

        assert isinstance(settings.beta, float)
        self.settings, self.beta = settings, settings.beta
        self.gate: Gate | None = None
        name = settings.divergence
        self.divergence = None if name == "none" else load_divergence(name)

    def noise_stds(self, policy: Policy) -> Tensor | None:
        """`Policy.noise_stds` for a divergence that takes them, for any other None.

        Raises `UserError` where the policy's chain has none.
        """
        if self.divergence is None or not self.divergence.of_noise:
            return None
        if policy.noise_stds is None:
            raise UserError(
                f"divergence {self.divergence.name} is about predicted noise, but the steps of this"
                " policy's chain are not linear in one: name another divergence, such as kl"
            )
        return policy.noise_stds

    def differentiated_steps(self, policy: Policy) -> int:
        """The most steps whose activations it keeps at once, if it backpropagates: all K."""
        return policy.steps

    def gates(self, images: Tensor, prompts: Sequence[str], reward: Tensor) -> Tensor | None:
        """What the gate says of images; None where all are subject to the divergence."""
        return None if self.gate is None else self.gate(images.detach(), prompts, reward.detach())

    def regularisation(self, divergence: Tensor, gates: Tensor | None) -> Tensor:
        """β times the mean divergence `(N,)` of images, 0 for those whose gate is shut."""
        return self.beta * (divergence if gates is None else gates * divergence).mean()

    @property
    def compares_last(self) -> bool:
        """Whether the deterministic last step has a divergence."""
        return self.divergence is not None and getattr(self.settings, "last_step_divergence", False)

    def step_weights(self, policy: Policy) -> list[float]:
        """Weights of the divergences of the steps that draw noise, and of the last if it has one.

        Raises `UserError` where the chain has other steps than the settings are about.
        """
        if self.compares_last and policy.chain.last_step is None:
            raise UserError(
                "last_step_divergence compares images at the noise level at which a last step"
                " without noise starts, and this policy's chain has no such level: set it to false"
            )
        steps = len(policy.stds) + self.compares_last
        weights = getattr(self.settings, "step_weights", None) or [1.0] * steps
        if len(weights) != steps:
            raise UserError(
                f"step_weights must be {steps} numbers, one for each step that is compared, not"
                f" {len(weights)}"
            )
        return list(weights)

    @abstractmethod
    def update(
        self, policy: Policy, reward: Reward, batches: Sequence[Batch], optimiser: Optimiser
    ) -> list[Statistics]:
        """One iteration over `batches`, which together are this process's part of one."""

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs beside adapter and optimiser: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - nothing by default
        """Take back what `state_dict` gave."""


def require_differentiable(reward: Reward, algorithm: str) -> None:
    """Raise `UserError` for a reward without a gradient."""
    if not reward.differentiable:
        raise UserError(
            f"reward {reward.name} is not differentiable: algorithm {algorithm} needs one that is"
        )


def load_settings(values: Mapping[str, Any]) -> TrainingSettings:
    """The settings in a mapping, of the class of the algorithm that it names.

    Raises `UserError` for an unknown algorithm and an unknown, missing or ill-typed key.
    """
    algorithm = values.get("algorithm")
    if not isinstance(algorithm, str):
        raise UserError(f"algorithm must be the name of an algorithm, not {algorithm!r}")
    return settings_class(algorithm, "algorithm").from_dict(values)


def load_algorithm(settings: TrainingSettings) -> Algorithm:
    """The algorithm that `settings` name; raises `UserError` where there is none."""
    module = load("algorithms", settings.algorithm)
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    own = (value for value in classes if value.__module__ == module.__name__)
    found = next((value for value in own if issubclass(value, Algorithm)), None)
    if found is None:
        raise UserError(f"{module.__name__} has no class of its own that is an Algorithm: add one")
    return found(settings)
