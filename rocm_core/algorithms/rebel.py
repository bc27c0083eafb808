"""REBEL: regression to relative rewards (Gao et al. 2024, arXiv 2404.16767, algorithm 1).

    minimise  E[ ( (log ρ(y) - log ρ(y'))/η - (r(y) - r(y')) )² ],  ρ = p_θ(y)/p_old(y)

for two images y, y' of one prompt, where log ρ(y) = Σ_k log ρ_k is that of the whole trajectory.
The minimiser is p_old exp(η r)/Z, whose Z depends on where a trajectory starts, on prompt and x_K,
and cancels between two that start alike. RLCM's release starts them from independent noise; it also
multiplies log-probabilities by its η, the inverse of this one, averages them over latent dimensions
(`reduction: mean`), and takes normalised advantages for r. A micro-batch there sums them over its
images, which is an error and is not followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from rocm_core.algorithms._advantages import NormalisedAdvantages, NormalisedSettings
from rocm_core.algorithms._policy_gradient import Sample, reevaluate, with_shared_start
from rocm_core.algorithms.base import Batch, Optimiser, RegularisedSettings, Statistics
from rocm_core.configuration import number

if TYPE_CHECKING:
    from torch import Tensor

    from rocm_core.policies import Policy, Transition
    from rocm_core.rewards import Reward

PAIRED = True


class Settings(NormalisedSettings, RegularisedSettings):
    """What REBEL has beside the settings of every policy gradient."""

    eta: Annotated[float, number(1e-9, 1e9, "nats per reward")] = 1.0
    """REBEL: η, the step: an image's log-probability is to rise by η for each unit of reward."""
    normalise_rewards: bool = True
    """REBEL: regress to rewards normalised per prompt, as RLCM's release does; false: to the
    rewards themselves, as the paper does, for which the best η depends on their scale."""
    pair_start: Literal["shared", "independent"] = "shared"
    """REBEL: whether the images of a pair start from the same noise, as the theory has it, or each
    from its own, as RLCM's release has it."""


class REBEL(NormalisedAdvantages):
    """Images 2i and 2i+1 of a batch are a pair.

    The loss is not a sum over steps, but its gradient is, at weights 4/η · residual: so one step is
    differentiated at a time. What the residual is, an evaluation without gradient tells first; it
    is left out where the policy still is the one that sampled.
    """

    settings: Settings

    def sample(self, policy: Policy, reward: Reward, batch: Batch) -> Sample:
        shared = self.settings.pair_start == "shared"
        return super().sample(policy, reward, with_shared_start(batch) if shared else batch)

    def advantages(
        self, samples: Sequence[Sample], optimiser: Optimiser
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        if self.settings.normalise_rewards:
            return super().advantages(samples, optimiser)
        return [s.reward[:, None].expand(-1, len(s.transitions)) for s in samples], {}

    def _learn(
        self, policy: Policy, sample: Sample, advantages: Tensor, group: int, optimiser: Optimiser
    ) -> Statistics:
        import torch

        log_ratio = torch.zeros_like(sample.reward)
        with torch.no_grad():
            for index, past in enumerate(sample.transitions if self.stale else ()):
                now = reevaluate(policy, index, past, sample.batch.embeddings, False, self.compares)
                log_ratio = log_ratio + self._log_ratio(now, past)
        error = log_ratio / self.settings.eta - advantages[:, 0]
        residual = error[::2] - error[1::2]
        pull = torch.stack([residual, -residual], 1).flatten()
        weights = (4 / self.settings.eta * pull)[:, None].expand_as(advantages)
        seen = super()._learn(policy, sample, weights, group, optimiser)
        loss = residual.square().mean()
        if self.beta:
            loss = loss + self.regularisation(seen.divergence, sample.gates)
        diagnostics = {k: v for k, v in seen.diagnostics.items() if k != "clipped"}
        return replace(seen, loss=loss / len(sample.transitions), diagnostics=diagnostics)

    def loss(self, now: Transition, past: Transition, advantage: Tensor) -> tuple[Tensor, Tensor]:
        return (advantage * self._log_ratio(now, past)).mean(), advantage.new_zeros(())

    def _log_ratio(self, now: Transition, past: Transition) -> Tensor:
        return now.log_ratio(self.settings.reduction, past.mean)
