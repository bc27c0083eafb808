"""Direct reward optimisation with a distributional regulariser: ROCM (equation 10, algorithm 2).

    maximise  E[ R(x_0, c) - β Σ_{k=2..K} D_f(p_k(·|θ, x_k, c) ‖ p_k(·|θ_ref, x_k, c)) ]

by backpropagation through the whole trajectory. Equation 10 prints +β; algorithm 2 has the minus.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rocm_core.algorithms.base import (
    Algorithm,
    BackpropagationSettings,
    Batch,
    Optimiser,
    ReducedSettings,
    RegularisedSettings,
    Statistics,
)
from rocm_core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from rocm_core.policies import Policy
    from rocm_core.rewards import Reward

DIFFERENTIATES = True


class Settings(BackpropagationSettings, ReducedSettings, RegularisedSettings):
    """What ROCM has beside the settings of every training."""

    reference_gradient: Literal["full", "stop"] = "full"
    """`full`: the gradient of equation 10, also through the reference's view of the trajectory.
    `stop`: the state is detached for both passes of the divergence, which keeps fewer
    activations."""


class Direct(Algorithm):
    """ROCM. With divergence `none` the reference is never evaluated."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.reference = settings.reference_gradient if self.divergence else None

    def update(
        self, policy: Policy, reward: Reward, batches: Sequence[Batch], optimiser: Optimiser
    ) -> list[Statistics]:
        seen = []
        for batch in batches:
            loss, statistics = self.loss(policy, reward, batch)
            optimiser.backward(loss / len(batches))
            seen.append(statistics)
        optimiser.step()
        return seen

    def loss(self, policy: Policy, reward: Reward, batch: Batch) -> tuple[Tensor, Statistics]:
        """-mean R + β mean Σ_k D(d²_k), d² reduced over latent dimensions before D is applied."""
        if not reward.differentiable:
            raise UserError(
                f"reward {reward.name} is not differentiable: "
                f"algorithm {self.settings.algorithm} needs one that is"
            )
        trajectory = policy.rollout(batch.embeddings, batch.noise, self.reference)
        scores = reward.score(policy.decode(trajectory.latents), batch.prompts)
        loss, seen = -scores.mean(), scores.detach()
        if self.divergence is None:
            return loss, Statistics(seen, loss.detach(), seen.new_zeros(len(seen)), None)
        summed = trajectory.squared_distances("sum")
        dimensions = 1 if self.settings.reduction == "sum" else batch.noise[0, 0].numel()
        noise_stds = self.noise_stds(policy)
        stds = policy.stds if noise_stds is None else noise_stds[: len(policy.stds)]
        divergence = self.divergence(summed / dimensions, stds).sum(1)
        if self.beta:  # β = 0 observes: an infinite D must not turn into 0·∞
            loss = loss + self.beta * divergence.mean()
        return loss, Statistics(seen, loss.detach(), divergence.detach(), summed.detach())
