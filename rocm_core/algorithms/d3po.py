"""D3PO: direct preference optimisation of each step of a chain (Yang et al. 2024, equation 14).

    minimise  E[ Σ_k -log σ(β log ρ⁺_k - β log ρ⁻_k) ],  ρ_k = p_θ(x_{k-1}|x_k) / p_ref(·|x_k)

for two images of one prompt from the same x_K, ⁺ the one of higher reward. Ratios are kept within
1 ± ε as in the authors' release, where an image that has left that range has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from rocm_core.algorithms._policy_gradient import (
    ClippedSettings,
    PolicyGradient,
    Sample,
    beyond,
    with_shared_start,
)
from rocm_core.algorithms.base import Batch, Optimiser
from rocm_core.configuration import number

if TYPE_CHECKING:
    from torch import Tensor

    from rocm_core.policies import Policy, Transition
    from rocm_core.rewards import Reward

DIVERGENCES = ("kl",)  # which preferences of this form regularise by
PAIRED = True
_TINY = 1e-30


class Settings(ClippedSettings):
    """Those of every policy gradient, with a clip that suits ratios to the reference."""

    ratio_clip: Annotated[float, number(0, 1e9)] = 0.1


class D3PO(PolicyGradient):
    """Images 2i and 2i+1 of a batch are a pair. A tie costs ln 2 and teaches nothing."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.weight, self.beta = self.beta, 0.0  # β is the loss's own; the KL is observed

    def sample(self, policy: Policy, reward: Reward, batch: Batch) -> Sample:
        return super().sample(policy, reward, with_shared_start(batch))

    def advantages(
        self, samples: Sequence[Sample], optimiser: Optimiser
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """+1 for the better image of a pair, -1 for the other, 0 for a tie."""
        import torch

        advantages = []
        for sample in samples:
            first = (sample.reward[::2] - sample.reward[1::2]).sign()
            preference = torch.stack([first, -first], 1).flatten()
            advantages.append(preference[:, None].expand(-1, len(sample.transitions)))
        return advantages, {}

    def loss(self, now: Transition, past: Transition, advantage: Tensor) -> tuple[Tensor, Tensor]:
        from torch.nn import functional

        clip = self.settings.ratio_clip
        log_ratio = now.log_ratio(self.settings.reduction)
        kept = log_ratio.clamp(math.log(max(1 - clip, _TINY)), math.log1p(clip))
        margin = self.weight * advantage[::2] * (kept[::2] - kept[1::2])
        return -functional.logsigmoid(margin).mean(), beyond(log_ratio.exp(), clip)
