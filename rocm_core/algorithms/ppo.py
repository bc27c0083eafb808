"""Proximal policy optimisation: RLCM on a consistency policy, DDPO on a diffusion policy.

    maximise  E[ Σ_k min(ρ_k Â, clip(ρ_k, 1 ± ε) Â) ],  ρ_k = p_θ(x_{k-1}|x_k) / p_old(·|x_k)

with rewards normalised per prompt (Black et al. 2023, section 4.2 and appendix; Oertell et al.
2024, algorithm 1). A divergence to the reference, which neither has, can be added to either.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rocm_core.algorithms._policy_gradient import PolicyGradient, Sample, beyond
from rocm_core.algorithms.base import Optimiser
from rocm_core.configuration import TrainingSettings
from rocm_core.policies import Policy, Transition

SETTINGS = (
    "reduction",
    "beta_calibration_steps",
    "updates_per_iteration",
    "inner_epochs",
    "ratio_clip",
    "advantage_clip",
    "prompt_buffer",
    "prompt_buffer_minimum",
    "horizon",
)
RATIO_CLIP = 1e-4
_TINY = 1e-6


class PPO(PolicyGradient):
    """The statistics of all prompts are part of its state."""

    def __init__(self, settings: TrainingSettings) -> None:
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
            advantage = torch.tensor(normalised).to(sample.reward).clamp(-limit, limit)
            advantages.append(advantage[:, None].expand(-1, len(sample.transitions)))
        return advantages, {}

    def loss(self, now: Transition, past: Transition, advantage: Tensor) -> tuple[Tensor, Tensor]:
        clip, ratio = self.settings.ratio_clip, self.ratio(now, past)
        kept = ratio.clamp(1 - clip, 1 + clip)
        gain = torch.minimum(ratio * advantage, kept * advantage)
        return -gain.mean(), beyond(ratio, clip)

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
    array = np.array(values)
    return float(array.mean()), float(array.std())
