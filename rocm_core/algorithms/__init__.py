"""Algorithms: update rules on a policy, each in its own module `rocm_core.algorithms.<name>`.

An algorithm is given batches and a way to optimise, and does as many optimiser updates with them
as it likes: one for direct optimisation, one for each inner epoch and timestep for policy
gradients. It knows nothing of files, processes, schedules or precision.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from rocm_core.errors import UserError
from rocm_core.policies import Policy
from rocm_core.rewards import Reward
from rocm_core.settings import TrainingSettings


@dataclass(frozen=True)
class Batch:
    """N prompts with their embeddings `(N, L, D)` and a rollout's noise `(N, K, C, h, w)`."""

    prompts: Sequence[str]
    embeddings: Tensor
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


class Algorithm(ABC):
    """An update rule; `settings.beta` is a number by now."""

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings

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


def names() -> list[str]:
    """All algorithms that there are."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in modules if not name.startswith("_"))


def load_algorithm(settings: TrainingSettings) -> Algorithm:
    """The algorithm in module `rocm_core.algorithms.<settings.algorithm>`, `-` read as `_`."""
    module_name = settings.algorithm.replace("-", "_")
    if module_name not in names():
        known = ", ".join(names())
        raise UserError(f"there is no algorithm {settings.algorithm!r}: choose one of {known}")
    module = importlib.import_module(f"{__name__}.{module_name}")
    found = (value for value in vars(module).values() if isinstance(value, type))
    own = (value for value in found if value.__module__ == module.__name__)
    return next(value for value in own if issubclass(value, Algorithm))(settings)
