"""What the zero-order algorithms share: sample with the policy as it is, then learn from it.

An iteration samples all its batches without gradient, turns their rewards into advantages, and
visits every transition again, with gradient, `inner_epochs` times.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rocm_core.algorithms import Algorithm, Batch, Optimiser, Statistics
from rocm_core.divergences import load_divergence
from rocm_core.policies import Policy, Transition
from rocm_core.rewards import Reward
from rocm_core.settings import TrainingSettings


@dataclass(frozen=True)
class Sample:
    """A batch with what the policy made of it: T transitions, their log-probabilities `(N, T)`
    under the policy that drew them, and rewards `(N,)`. Nothing carries gradient."""

    batch: Batch
    transitions: Sequence[Transition]
    log_probs: Tensor
    reward: Tensor


class PolicyGradient(Algorithm):
    """Maximise E[R] - β Σ_k D(d²_k) by a score-function estimate of the first term's gradient.

    A subclass says what the advantages are and how a ratio that has gone too far is clipped. The
    divergence's term is exact, given the states that were sampled; it is absent for `none`.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__(settings)
        regularised = settings.divergence != "none"
        self.divergence = load_divergence(settings.divergence) if regularised else None

    @abstractmethod
    def advantages(
        self, policy: Policy, samples: Sequence[Sample], optimiser: Optimiser
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """For each sample the advantages `(N, T)`, and diagnostics."""

    @abstractmethod
    def surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """Loss `(N,)` of importance ratios and advantages `(N,)`."""

    def update(
        self, policy: Policy, reward: Reward, batches: Sequence[Batch], optimiser: Optimiser
    ) -> list[Statistics]:
        samples = [self.sample(policy, reward, batch) for batch in batches]
        advantages, diagnostics = self.advantages(policy, samples, optimiser)
        seen: list[Statistics] = []
        for _ in range(self.settings.inner_epochs):
            seen = []  # of the last inner epoch, which says how far the policy has gone
            for group in deal(range(len(samples)), self.settings.updates_per_iteration):
                for i in group:
                    scale = 1 / (len(group) * len(samples[i].transitions))
                    seen.append(self._learn(policy, samples[i], advantages[i], scale, optimiser))
                optimiser.step()
        return [replace(s, diagnostics={**s.diagnostics, **diagnostics}) for s in seen]

    def sample(self, policy: Policy, reward: Reward, batch: Batch) -> Sample:
        """Roll out and score without gradient."""
        with torch.no_grad():
            trajectory = policy.rollout(batch.embeddings, batch.noise)
            transitions = list(trajectory.transitions)
            if self.settings.horizon == "released":
                transitions += released_step(policy, transitions, batch.noise, trajectory.latents)
            log_probs = [t.log_prob(self.settings.reduction) for t in transitions]
            scores = reward.score(policy.decode(trajectory.latents), batch.prompts)
        stacked = torch.stack(log_probs, 1) if log_probs else scores.new_zeros(len(scores), 0)
        return Sample(batch, transitions, stacked, scores)

    def _learn(
        self,
        policy: Policy,
        sample: Sample,
        advantages: Tensor,
        scale: float,
        optimiser: Optimiser,
    ) -> Statistics:
        """Gather the gradient of one sample's loss, one transition at a time."""
        losses, clipped, distances, divergences = [], [], [], []
        for index, past in enumerate(sample.transitions):
            now = revisit(policy, index, past, sample.batch.embeddings, self.divergence is not None)
            log_prob = now.log_prob(self.settings.reduction)
            ratio = torch.exp(log_prob - sample.log_probs[:, index])
            loss = self.surrogate(ratio, advantages[:, index]).mean()
            if self.divergence is not None:
                distance = now.squared_distance(self.settings.reduction)
                divergence = self.divergence(distance, now.std)
                loss = loss + float(self.settings.beta) * divergence.mean()
                divergences.append(divergence.detach())
                distances.append(now.squared_distance("sum").detach())
            optimiser.backward(loss * scale)
            losses.append(loss.detach())
            clipped.append(((ratio - 1).abs() > self.settings.ratio_clip).float().mean())
        return Statistics(
            sample.reward,
            torch.stack(losses).mean(),
            torch.stack(divergences).sum(0) if divergences else torch.zeros_like(sample.reward),
            torch.stack(distances[: len(policy.stds)], 1) if distances else None,
            {"clipped": torch.stack(clipped).mean()},
        )


def deal(items: Sequence[int], groups: int) -> list[Sequence[int]]:
    """`items` in so many consecutive groups of equal size."""
    size = len(items) // groups
    return [items[i * size : (i + 1) * size] for i in range(groups)]


def released_step(
    policy: Policy, transitions: Sequence[Transition], noise: Tensor, latents: Tensor
) -> list[Transition]:
    """The last step as RLCM's release takes it: x_0 put back to the noise level of x_1.

    Its noise never reaches the image. None for a policy whose last step is stochastic anyway.
    """
    if policy.last_step is None:
        return []
    signal, std = policy.last_step
    state = transitions[-1].next_state if transitions else noise[:, 0]
    mean, level = signal * latents, policy.stds.new_tensor(std)
    next_state = mean + level * torch.randn(mean.shape).to(mean)
    timestep = int(policy.timesteps[-1])
    return [Transition(timestep, state, mean, level, next_state, None)]


def revisit(
    policy: Policy, index: int, past: Transition, embeddings: Tensor, reference: bool
) -> Transition:
    """`Policy.revisit`, which also knows a `released_step`."""
    now = policy.revisit(index, past, embeddings, reference)
    if index < len(policy.stds) or policy.last_step is None:
        return now
    signal = policy.last_step[0]
    base = None if now.reference_mean is None else signal * now.reference_mean
    return replace(now, mean=signal * now.mean, reference_mean=base)
