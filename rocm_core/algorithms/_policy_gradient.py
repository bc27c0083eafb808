"""What the policy-gradient algorithms share: sample with the policy as it is, then learn from it.

An iteration samples all its batches without gradient, turns their rewards into advantages, and
evaluates every transition again, with gradient, `inner_epochs` times.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from rocm_core.algorithms.base import Algorithm, Batch, Optimiser, ReducedSettings, Statistics
from rocm_core.configuration import Whole, number
from rocm_core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from rocm_core.policies import Embeddings, Policy, Trajectory, Transition
    from rocm_core.rewards import Reward

_MOST = 20.0  # nats of a log-ratio: clipped long before, and a finite number times 0 stays 0


class PolicyGradientSettings(ReducedSettings):
    """What every policy-gradient algorithm has."""

    learns_from_noise: ClassVar[bool] = True
    updates_per_iteration: Annotated[Whole, number(1, 100_000, "steps")] = 1
    """Policy gradients: optimiser steps into which the batches of an iteration are dealt; it must
    divide `accumulation_steps`."""
    inner_epochs: Annotated[Whole, number(1, 10_000, "epochs")] = 1
    """Policy gradients: how often an iteration learns from the same images."""


class ClippedSettings(PolicyGradientSettings):
    """Of a policy gradient that clips importance ratios."""

    ratio_clip: Annotated[float, number(0, 1e9)] = 1e-4
    """Policy gradients: importance ratios beyond 1 ± this have no gradient. D3PO: ratios to the
    reference are kept within 1 ± this. null takes the algorithm's own, 1.0e-4, but 0.1 for
    D3PO."""


@dataclass(frozen=True)
class Sample:
    """A batch with what the policy made of it: T transitions with the means of the policy that
    drew them, rewards `(N,)` and what the gate said `(N,)`. Nothing carries gradient."""

    batch: Batch
    transitions: Sequence[Transition]
    reward: Tensor
    gates: Tensor | None = None


class PolicyGradient(Algorithm):
    """Maximise E[R] - β Σ_k D(d²_k) by a score-function estimate of the first term's gradient.

    A subclass says what the advantages are and what loss they make of a transition. The
    divergence's term is exact, given the states that were sampled; it is absent for `none`.
    Both are averaged over the T steps instead of summed, which Adam does not see.
    """

    settings: PolicyGradientSettings

    @abstractmethod
    def advantages(
        self, samples: Sequence[Sample], optimiser: Optimiser
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """For each sample the advantages `(N, T)`, and diagnostics."""

    @abstractmethod
    def loss(self, now: Transition, past: Transition, advantage: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss over images, and the share of ratios beyond the clip, 0 where none is clipped.

        `past` was sampled, `now` is as the policy would make it; advantages are `(N,)`.
        """

    def update(
        self, policy: Policy, reward: Reward, batches: Sequence[Batch], optimiser: Optimiser
    ) -> list[Statistics]:
        samples = [self.sample(policy, reward, batch) for batch in batches]
        advantages, diagnostics = self.advantages(samples, optimiser)
        size = len(samples) // self.settings.updates_per_iteration
        for _ in range(self.settings.inner_epochs):
            seen = []  # of the last inner epoch, which says how far the policy has gone
            for i, sample in enumerate(samples):
                seen.append(self._learn(policy, sample, advantages[i], size, optimiser))
                if (i + 1) % size == 0:
                    optimiser.step()
        return [replace(s, diagnostics={**s.diagnostics, **diagnostics}) for s in seen]

    def sample(self, policy: Policy, reward: Reward, batch: Batch) -> Sample:
        """Roll out and score; raises `UserError` for a chain that never draws."""
        import torch

        with torch.no_grad():
            trajectory = policy.rollout(batch.embeddings, batch.noise, compared=self.compares)
            transitions = [
                *trajectory.transitions,
                *self.further_steps(policy, batch, trajectory),
            ]
            if not transitions:
                raise UserError(
                    f"{self.settings.algorithm} learns from the steps that draw noise, and this "
                    "chain has none: raise inference_steps"
                )
            images = policy.decode(trajectory.latents)
            scores = reward.score(images, batch.prompts)
            return Sample(batch, transitions, scores, self.gates(images, batch.prompts, scores))

    @property
    def stale(self) -> bool:
        """Whether transitions are learned from with other weights than those that drew them."""
        return self.settings.updates_per_iteration * self.settings.inner_epochs > 1

    @property
    def compares(self) -> bool:
        """Whether means of different weights are compared: those of `stale` transitions, and of a
        reference."""
        return self.stale or self.divergence is not None

    def further_steps(
        self, policy: Policy, batch: Batch, trajectory: Trajectory
    ) -> list[Transition]:
        """Transitions to learn from beside those that the trajectory drew: none."""
        return []

    def ratio(self, now: Transition, past: Transition) -> Tensor:
        """Importance ratio `(N,)` of the policy to the one that sampled; 1 before any update."""
        return now.log_ratio(self.settings.reduction, past.mean).clamp(-_MOST, _MOST).exp()

    def _learn(
        self, policy: Policy, sample: Sample, advantages: Tensor, group: int, optimiser: Optimiser
    ) -> Statistics:
        """Gather the gradient of a sample, of `group` in an update, one transition at a time."""
        import torch

        steps, reduction = len(sample.transitions), self.settings.reduction
        noise_stds, drawn = self.noise_stds(policy), len(policy.stds)
        weights = dict(enumerate(self.step_weights(policy)))
        compared = [*sample.transitions]
        if self.compares_last and steps == drawn:  # which is not learned from, but regularised
            state = compared[-1].next_state
            compared.append(policy.last_step(state, state, None))
        losses, clipped, distances, divergences = [], [], [], []
        for index, past in enumerate(compared):
            embeddings, reference = sample.batch.embeddings, self.divergence is not None
            now = reevaluate(policy, index, past, embeddings, reference, self.compares)
            loss = torch.zeros_like(sample.reward).sum()
            if index < steps:
                loss, beyond = self.loss(now, past, advantages[:, index])
                clipped.append(beyond)
            if self.divergence is not None:
                distances.append(now.squared_distance("sum").detach())
                if weight := weights.get(index, 1.0):
                    std = now.std if noise_stds is None else noise_stds[index]
                    divergence = weight * self.divergence(now.squared_distance(reduction), std)
                    if self.beta:  # 0 observes: an infinite D must not turn into 0·∞
                        loss = loss + self.regularisation(divergence, sample.gates)
                    divergences.append(divergence.detach())
            if loss.requires_grad:
                optimiser.backward(loss / (group * steps))
            losses.append(loss.detach())
        diagnostics = {"clipped": torch.stack(clipped).mean()}
        if sample.gates is not None:
            diagnostics["gated"] = sample.gates.mean()
        if self.compares_last:
            diagnostics["squared_distance_1"] = distances[drawn].mean()
        return Statistics(
            sample.reward,
            torch.stack(losses).sum() / steps,
            torch.stack(divergences).sum(0) if divergences else torch.zeros_like(sample.reward),
            torch.stack(distances[:drawn], 1) if distances else None,
            diagnostics,
        )


def with_shared_start(batch: Batch) -> Batch:
    """The batch with images 2i and 2i+1 from the same x_K."""
    noise = batch.noise.clone()
    noise[1::2, 0] = noise[::2, 0]
    return replace(batch, noise=noise)


def clipped_loss(ratio: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """-mean min(ρ A, clip(ρ, 1 ± ε) A), a pessimistic bound (Schulman et al. 2017, equation 7), and
    the share of ratios beyond the clip."""
    kept = ratio.clamp(1 - clip, 1 + clip)
    gain = (ratio * advantage).minimum(kept * advantage)
    return -gain.mean(), beyond(ratio, clip)


def beyond(ratio: Tensor, clip: float) -> Tensor:
    """Share of ratios outside of 1 ± clip, ()."""
    return ((ratio.detach() - 1).abs() > clip).float().mean()


def reevaluate(
    policy: Policy,
    index: int,
    past: Transition,
    embeddings: Embeddings,
    reference: bool,
    compared: bool,
) -> Transition:
    """`Policy.reevaluate`, which also knows the last step as RLCM's release takes it."""
    now = policy.reevaluate(index, past, embeddings, reference, compared)
    if index < len(policy.stds) or policy.chain.last_step is None:
        return now
    signal = policy.chain.last_step[0]
    base = None if now.reference_mean is None else signal * now.reference_mean
    return replace(now, mean=signal * now.mean, reference_mean=base)
