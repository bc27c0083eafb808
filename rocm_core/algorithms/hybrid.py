"""Policy gradient on the steps that draw noise, backpropagation through the last ones, which do
not: the two parts of one exact gradient.

    ∇ E[R(x_0)] = E[ Σ_k ∇ log p_θ(x_{k-1}|x_k) R + ∇_θ R(f_θ(x_1, c))|_{x_1 fixed} ]

by the score function for the states and by reparameterisation for what follows them, where x_1 is
the state from which no noise is drawn any more (as in a stochastic computation graph, Schulman et
al. 2015, arXiv 1506.05254, theorem 1). A policy gradient alone has no way to train that step. The
baseline is the mean reward of the prompt's other images in the iteration (Kool et al. 2019), which
leaves the expectation as it is; rewards are not divided by their spread, as that would weigh the
two parts differently. β is therefore in the reward's units, as ROCM's is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from rocm_core.algorithms._advantages import groups_of, pairs_of
from rocm_core.algorithms._policy_gradient import (
    ClippedSettings,
    PolicyGradient,
    Sample,
    clipped_loss,
)
from rocm_core.algorithms.base import (
    BackpropagationSettings,
    Batch,
    Optimiser,
    RegularisedSettings,
    Statistics,
    require_differentiable,
)
from rocm_core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from rocm_core.policies import Policy, Transition
    from rocm_core.rewards import Reward

DIFFERENTIATES = True


class Settings(BackpropagationSettings, ClippedSettings, RegularisedSettings):
    """Those of every clipped policy gradient, and of backpropagation."""

    least_images_per_prompt: ClassVar[int] = 2


class Hybrid(PolicyGradient):
    """Each inner epoch decodes and scores the images again, for the gradient of the last step."""

    settings: Settings
    reward: Reward

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.scorings = 1 + settings.inner_epochs

    def differentiated_steps(self, policy: Policy) -> int:
        return policy.steps - len(policy.stds)

    def update(
        self, policy: Policy, reward: Reward, batches: Sequence[Batch], optimiser: Optimiser
    ) -> list[Statistics]:
        require_differentiable(reward, self.settings.algorithm)
        if policy.steps == len(policy.stds):
            raise UserError(
                f"{self.settings.algorithm} differentiates the steps that draw no noise, and this"
                " policy's chain has none: use grpo, or direct"
            )
        self.reward = reward
        return super().update(policy, reward, batches, optimiser)

    def advantages(
        self, samples: Sequence[Sample], optimiser: Optimiser
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        groups = groups_of(samples, optimiser)
        advantages = []
        for sample in samples:
            relative = [
                reward - (sum(groups[prompt]) - reward) / max(1, len(groups[prompt]) - 1)
                for prompt, reward in pairs_of(sample)
            ]
            advantage = sample.reward.new_tensor(relative)[:, None]
            advantages.append(advantage.expand(-1, len(sample.transitions)))
        return advantages, {}

    def loss(self, now: Transition, past: Transition, advantage: Tensor) -> tuple[Tensor, Tensor]:
        return clipped_loss(self.ratio(now, past), advantage, self.settings.ratio_clip)

    def _learn(
        self, policy: Policy, sample: Sample, advantages: Tensor, group: int, optimiser: Optimiser
    ) -> Statistics:
        seen = super()._learn(policy, sample, advantages, group, optimiser)
        batch, steps = sample.batch, len(sample.transitions)
        latents = policy.finish(sample.transitions[-1].next_state, batch.embeddings)
        loss = -self.reward.score(policy.decode(latents), batch.prompts).mean() / steps
        optimiser.backward(loss / group)
        return replace(seen, loss=seen.loss + loss.detach())
