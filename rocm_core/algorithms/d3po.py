"""D3PO: direct preference optimisation of each step of a chain (Yang et al. 2024, equation 14).

    minimise  E[ Σ_k -log σ(β log ρ⁺_k - β log ρ⁻_k) ],  ρ_k = p_θ(x_{k-1}|x_k) / p_ref(·|x_k)

for two images of one prompt from the same x_K, ⁺ the one of higher reward. Ratios are kept within
1 ± ε as in the authors' release, where a step that has left that range has no gradient.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rocm_core.algorithms import Algorithm, Batch, Optimiser, Statistics
from rocm_core.algorithms._policy_gradient import deal
from rocm_core.policies import Policy, Trajectory, Transition
from rocm_core.rewards import Reward

SETTINGS = ("reduction", "updates_per_iteration", "inner_epochs", "ratio_clip")
DIVERGENCES = ("kl",)  # which preferences of this form regularise by
PAIRED = True
_TINY = 1e-30


class D3PO(Algorithm):
    """Images 2i and 2i+1 of a batch are a pair; a tie teaches nothing."""

    def update(
        self, policy: Policy, reward: Reward, batches: Sequence[Batch], optimiser: Optimiser
    ) -> list[Statistics]:
        samples = [self._sample(policy, reward, batch) for batch in batches]
        seen: list[Statistics] = []
        for _ in range(self.settings.inner_epochs):
            seen = []
            for group in deal(range(len(batches)), self.settings.updates_per_iteration):
                for i in group:
                    trajectory, scores = samples[i]
                    scale = 1 / (len(group) * len(trajectory.transitions))
                    embeddings = batches[i].embeddings
                    seen.append(
                        self._learn(policy, trajectory, scores, embeddings, scale, optimiser)
                    )
                optimiser.step()
        return seen

    @torch.no_grad()
    def _sample(self, policy: Policy, reward: Reward, batch: Batch) -> tuple[Trajectory, Tensor]:
        noise = batch.noise.clone()
        noise[1::2, 0] = noise[::2, 0]
        trajectory = policy.rollout(batch.embeddings, noise)
        return trajectory, reward.score(policy.decode(trajectory.latents), batch.prompts)

    def _learn(
        self,
        policy: Policy,
        trajectory: Trajectory,
        scores: Tensor,
        embeddings: Tensor,
        scale: float,
        optimiser: Optimiser,
    ) -> Statistics:
        """Gather the gradient of one batch's loss, one transition at a time."""
        preference = (scores[::2] - scores[1::2]).sign()
        losses, distances = [], []
        for index, past in enumerate(trajectory.transitions):
            now = policy.revisit(index, past, embeddings, reference=True)
            loss = self.loss(now, preference)
            optimiser.backward(loss * scale)
            losses.append(loss.detach())
            distances.append(now.squared_distance("sum").detach())
        squared = torch.stack(distances, 1)
        return Statistics(scores, torch.stack(losses).mean(), squared.sum(1) / 2, squared)

    def loss(self, transition: Transition, preference: Tensor) -> Tensor:
        """Mean loss over pairs that are no ties; `preference` `(N/2,)`: +1 for the first image."""
        clip, beta = self.settings.ratio_clip, float(self.settings.beta)
        log_ratio = transition.log_ratio(self.settings.reduction)
        log_ratio = log_ratio.clamp(math.log(max(1 - clip, _TINY)), math.log1p(clip))
        margin = beta * (log_ratio[::2] - log_ratio[1::2])
        decided = preference != 0
        losses = -F.logsigmoid(preference * margin) * decided
        return losses.sum() / decided.sum().clamp_min(1)
