"""Proximal policy optimisation: RLCM on a consistency policy, DDPO on a diffusion policy.

    maximise  E[ Σ_k min(ρ_k Â, clip(ρ_k, 1 ± ε) Â) ],  ρ_k = p_θ(x_{k-1}|x_k) / p_old(·|x_k)

with rewards normalised per prompt (Black et al. 2023, section 4.2 and appendix; Oertell et al.
2024, algorithm 1). A divergence to the reference, which neither has, can be added to either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rocm_core.algorithms._advantages import NormalisedAdvantages, NormalisedSettings
from rocm_core.algorithms._policy_gradient import ClippedSettings, clipped_loss
from rocm_core.algorithms.base import Batch, RegularisedSettings

if TYPE_CHECKING:
    from torch import Tensor

    from rocm_core.policies import Policy, Trajectory, Transition


class Settings(NormalisedSettings, ClippedSettings, RegularisedSettings):
    """What PPO has beside the settings of every policy gradient."""

    horizon: Literal["stochastic", "released"] = "stochastic"
    """PPO: `stochastic` learns from the steps that draw noise. `released` also from a last one that
    draws none, as if the noise that RLCM's release draws there had reached the image."""


class PPO(NormalisedAdvantages):
    """Advantages are rewards normalised per prompt."""

    settings: Settings

    def further_steps(
        self, policy: Policy, batch: Batch, trajectory: Trajectory
    ) -> list[Transition]:
        """With `horizon: released`, a last step that draws no noise, else none."""
        released = self.settings.horizon == "released"
        return released_step(policy, trajectory, batch.noise) if released else []

    def loss(self, now: Transition, past: Transition, advantage: Tensor) -> tuple[Tensor, Tensor]:
        return clipped_loss(self.ratio(now, past), advantage, self.settings.ratio_clip)


def released_step(policy: Policy, trajectory: Trajectory, noise: Tensor) -> list[Transition]:
    """The last step as RLCM's release takes it: x_0 put back to the noise level of x_1.

    Its noise never reaches the image. None for a chain without a `last_step`.
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
