"""Group-relative policy optimisation (Shao et al. 2024, arXiv 2402.03300, equation 3; on chains of
Gaussian steps Xue et al. 2025, arXiv 2505.07818, and Liu et al. 2025, arXiv 2505.05470).

    maximise  E[ Σ_k min(ρ_k Â, clip(ρ_k, 1 ± ε) Â) - β D(p_k(·|θ), p_k(·|θ_ref)) ],
    Â = (R - mean)/std over the group, which is the iteration's images of the prompt

The KL is part of the loss, not of the reward. The authors estimate it from the sampled tokens; that
of two Gaussians is known, and what their estimator has as its mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from rocm_core.algorithms._advantages import TINY, groups_of, moments, pairs_of
from rocm_core.algorithms._policy_gradient import (
    ClippedSettings,
    PolicyGradient,
    Sample,
    clipped_loss,
)
from rocm_core.algorithms.base import Optimiser, RegularisedSettings

if TYPE_CHECKING:
    from torch import Tensor

    from rocm_core.policies import Transition


class Settings(ClippedSettings, RegularisedSettings):
    """Those of every clipped policy gradient."""

    least_images_per_prompt: ClassVar[int] = 2


class GRPO(PolicyGradient):
    """PPO without a memory: a prompt's images of one iteration are each other's baseline."""

    settings: Settings

    def advantages(
        self, samples: Sequence[Sample], optimiser: Optimiser
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        known = {k: moments(group) for k, group in groups_of(samples, optimiser).items()}
        advantages = []
        for sample in samples:
            relative = [(r - known[p][0]) / (known[p][1] + TINY) for p, r in pairs_of(sample)]
            advantage = sample.reward.new_tensor(relative)[:, None]
            advantages.append(advantage.expand(-1, len(sample.transitions)))
        return advantages, {}

    def loss(self, now: Transition, past: Transition, advantage: Tensor) -> tuple[Tensor, Tensor]:
        return clipped_loss(self.ratio(now, past), advantage, self.settings.ratio_clip)
