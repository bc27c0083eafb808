"""Proximal policy optimisation: RLCM on a consistency policy, DDPO on a diffusion policy.

    maximise  E[ Σ_k min(ρ_k Â, clip(ρ_k, 1 ± ε) Â) ],  ρ_k = p_θ(x_{k-1}|x_k) / p_old(·|x_k)

with rewards normalised per prompt (Black et al. 2023, section 4.2 and appendix; Oertell et al.
2024, algorithm 1). A divergence to the reference, which neither has, can be added to either.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rocm_core.algorithms._policy_gradient import (
    PolicyGradient,
    PolicyGradientSettings,
    Sample,
    beyond,
)
from rocm_core.algorithms.base import Batch, Optimiser, RegularisedSettings
from rocm_core.configuration import Whole, number

if TYPE_CHECKING:
    from torch import Tensor

    from rocm_core.policies import Policy, Trajectory, Transition

_TINY = 1e-6


class Settings(PolicyGradientSettings, RegularisedSettings):
    """What PPO has beside the settings of every policy gradient."""

    advantage_clip: Annotated[float, number(0, 1e9)] = 10.0
    """PPO: largest absolute value of a normalised advantage."""
    prompt_buffer: Annotated[Whole, number(0, 1_000_000, "rewards")] = 32
    """PPO: a prompt's last rewards by which its next ones are normalised; 0 normalises by the
    iteration's rewards."""
    prompt_buffer_minimum: Annotated[Whole, number(1, 1_000_000, "rewards")] = 16
    """PPO: with fewer rewards of a prompt than this, the iteration's rewards normalise."""
    horizon: Literal["stochastic", "released"] = "stochastic"
    """PPO: `stochastic` learns from the steps that draw noise. `released` also from a consistency
    model's last one, as if the noise that RLCM's release draws there had reached the image."""


class PPO(PolicyGradient):
    """The statistics of all prompts are part of its state."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.statistics = PromptStatistics(settings.prompt_buffer, settings.prompt_buffer_minimum)

    def advantages(
        self, policy: Policy, samples: Sequence[Sample], optimiser: Optimiser
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        own = [list(zip(s.batch.prompts, s.reward.tolist(), strict=True)) for s in samples]
        everyone = optimiser.gather(own)
        # In the order of the run, which does not depend on how it is split over processes.
        parts = [part for i in range(len(own)) for part in everyone[i :: len(own)]]
        self.statistics.add([pair for part in parts for pair in part])
        limit = self.settings.advantage_clip
        advantages = []
        for sample, pairs in zip(samples, own, strict=True):
            normalised = [self.statistics.normalise(prompt, reward) for prompt, reward in pairs]
            advantage = sample.reward.new_tensor(normalised).clamp(-limit, limit)
            advantages.append(advantage[:, None].expand(-1, len(sample.transitions)))
        return advantages, {}

    def further_steps(
        self, policy: Policy, batch: Batch, trajectory: Trajectory
    ) -> list[Transition]:
        """With `horizon: released`, the last step of a consistency model, else none."""
        released = self.settings.horizon == "released"
        return released_step(policy, trajectory, batch.noise) if released else []

    def loss(self, now: Transition, past: Transition, advantage: Tensor) -> tuple[Tensor, Tensor]:
        clip, ratio = self.settings.ratio_clip, self.ratio(now, past)
        kept = ratio.clamp(1 - clip, 1 + clip)
        gain = (ratio * advantage).minimum(kept * advantage)
        return -gain.mean(), beyond(ratio, clip)

    def state_dict(self) -> dict[str, Any]:
        return {"rewards": {k: list(v) for k, v in self.statistics.rewards.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for prompt, rewards in state["rewards"].items():
            self.statistics.rewards[prompt].extend(rewards)


def released_step(policy: Policy, trajectory: Trajectory, noise: Tensor) -> list[Transition]:
    """The last step as RLCM's release takes it: x_0 put back to the noise level of x_1.

    Its noise never reaches the image. None for a policy whose last step is stochastic anyway.
    """
    import torch

    from rocm_core.policies import Transition

    if policy.chain.last_step is None:
        return []
    transitions, latents = trajectory.transitions, trajectory.latents
    signal, std = policy.chain.last_step
    state = transitions[-1].next_state if transitions else noise[:, 0]
    mean, level = signal * latents, policy.stds.new_tensor(std)
    next_state = mean + level * torch.randn(mean.shape).to(mean)
    timestep = policy.chain.steps[-1].timestep
    return [Transition(timestep, state, mean, level, next_state, None)]


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
        self.iteration = _moments([reward for _, reward in rewards])
        for prompt, reward in rewards:
            self.rewards[prompt].append(reward)

    def normalise(self, prompt: str, reward: float) -> float:
        """(reward - mean) / standard deviation."""
        known = self.rewards[prompt]
        mean, spread = _moments(known) if len(known) >= self.minimum else self.iteration
        return (reward - mean) / (spread + _TINY)


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation, of the values and not of what they are drawn from."""
    import numpy as np

    array = np.array(values)
    return float(array.mean()), float(array.std())
