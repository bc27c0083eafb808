"""Advantages that several policy gradients share: rewards against those of the same prompt."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from rocm_core.algorithms._policy_gradient import PolicyGradient, PolicyGradientSettings, Sample
from rocm_core.algorithms.base import Optimiser
from rocm_core.configuration import Whole, number

if TYPE_CHECKING:
    from torch import Tensor


TINY = 1e-6


class NormalisedSettings(PolicyGradientSettings):
    """Of a policy gradient whose advantages are rewards normalised per prompt."""

    advantage_clip: Annotated[float, number(0, 1e9)] = 10.0
    """PPO, REBEL: largest absolute value of a normalised advantage."""
    prompt_buffer: Annotated[Whole, number(0, 1_000_000, "rewards")] = 32
    """PPO, REBEL: a prompt's last rewards by which its next ones are normalised; 0 normalises by
    the iteration's rewards."""
    prompt_buffer_minimum: Annotated[Whole, number(1, 1_000_000, "rewards")] = 16
    """PPO, REBEL: with fewer rewards of a prompt than this, the iteration's rewards normalise."""


class NormalisedAdvantages(PolicyGradient):
    """The statistics of all prompts are part of its state."""

    settings: NormalisedSettings

    def __init__(self, settings: NormalisedSettings) -> None:
        super().__init__(settings)
        self.statistics = PromptStatistics(settings.prompt_buffer, settings.prompt_buffer_minimum)

    def advantages(
        self, samples: Sequence[Sample], optimiser: Optimiser
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        self.statistics.add(rewards_of_all(samples, optimiser))
        limit = self.settings.advantage_clip
        advantages = []
        for sample in samples:
            normalised = [self.statistics.normalise(*pair) for pair in pairs_of(sample)]
            advantage = sample.reward.new_tensor(normalised).clamp(-limit, limit)
            advantages.append(advantage[:, None].expand(-1, len(sample.transitions)))
        return advantages, {}

    def state_dict(self) -> dict[str, Any]:
        return {"rewards": {k: list(v) for k, v in self.statistics.rewards.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for prompt, rewards in state["rewards"].items():
            self.statistics.rewards[prompt].extend(rewards)


class PromptStatistics:
    """Mean and spread of each prompt's last `size` rewards, and of the current iteration's.

    A prompt with fewer than `minimum` rewards is normalised by the iteration's; so are all prompts
    when `size` is 0.
    """

    def __init__(self, size: int, minimum: int) -> None:
        self.minimum = minimum
        self.rewards: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=size))
        self.iteration = 0.0, 1.0

    def add(self, rewards: Sequence[tuple[str, float]]) -> None:
        """Take the (prompt, reward) pairs of one iteration, of all processes."""
        self.iteration = moments([reward for _, reward in rewards])
        for prompt, reward in rewards:
            self.rewards[prompt].append(reward)

    def normalise(self, prompt: str, reward: float) -> float:
        """(reward - mean) / standard deviation."""
        known = self.rewards[prompt]
        mean, spread = moments(known) if len(known) >= self.minimum else self.iteration
        return (reward - mean) / (spread + TINY)


def groups_of(samples: Sequence[Sample], optimiser: Optimiser) -> dict[str, list[float]]:
    """The iteration's rewards by prompt, of all processes."""
    groups: dict[str, list[float]] = defaultdict(list)
    for prompt, reward in rewards_of_all(samples, optimiser):
        groups[prompt].append(reward)
    return groups


def rewards_of_all(samples: Sequence[Sample], optimiser: Optimiser) -> list[tuple[str, float]]:
    """The (prompt, reward) pairs of all processes in the order of the run, which does not depend on
    how it is split over processes."""
    own = [pairs_of(sample) for sample in samples]
    everyone = optimiser.gather(own)
    parts = [part for i in range(len(own)) for part in everyone[i :: len(own)]]
    return [(prompt, reward) for part in parts for prompt, reward in part]


def pairs_of(sample: Sample) -> list[tuple[str, float]]:
    """The prompt and the reward of each image."""
    return list(zip(sample.batch.prompts, sample.reward.tolist(), strict=True))


def moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation, of the values and not of what they are drawn from."""
    import numpy as np

    array = np.array(values)
    return float(array.mean()), float(array.std())
