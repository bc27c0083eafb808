"""Direct reward optimisation with a distributional regulariser: ROCM (equation 10, algorithm 2).

    maximise  E[ R(x_0, c) - β Σ_{k=2..K} D_f(p_k(·|θ, x_k, c) ‖ p_k(·|θ_ref, x_k, c)) ]

by backpropagation through the whole trajectory. Equation 10 prints +β; algorithm 2 has the minus.

`truncate` stops the gradient before the last steps: DRaFT-K and, for one step, DRaFT-LV
(`low_variance`) of Clark et al. 2023 (arXiv 2309.17400), and a random number of steps as
in AlignProp (Prabhudesai et al. 2023, arXiv 2310.03739). `stop_input` is DRTune's (Wu
et al. 2024, arXiv 2405.00760): the state that a network sees is a constant, so that the
gradient passes between steps through the chain's own arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from rocm_core.algorithms.base import (
    Algorithm,
    BackpropagationSettings,
    Batch,
    Optimiser,
    ReducedSettings,
    RegularisedSettings,
    Statistics,
    require_differentiable,
)
from rocm_core.configuration import OPTIONAL, Whole, items, number
from rocm_core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from rocm_core.policies import Policy
    from rocm_core.rewards import Reward

DIFFERENTIATES = True

_Steps = Annotated[Whole, number(1, 1000, "steps")]


class Settings(BackpropagationSettings, ReducedSettings, RegularisedSettings):
    """What ROCM has beside the settings of every training."""

    reference_gradient: Literal["full", "stop"] = "full"
    """`full`: the gradient of equation 10, also through the reference's view of the trajectory.
    `stop`: the state is detached for both passes of the divergence, which keeps fewer
    activations."""
    truncate: Annotated[
        _Steps
        | Annotated[tuple[_Steps, _Steps], items(0, "a list of two numbers of steps")]
        | Literal["last"]
        | None,
        OPTIONAL,
    ] = None
    """ROCM: how many of the chain's last steps carry gradient, of the reward and of the divergence;
    a list of the fewest and the most draws the number anew for each iteration; `last` are the steps
    that draw no noise, one for a consistency model. null: all."""
    low_variance: Annotated[
        Annotated[Whole, number(1, 10_000, "images")] | None,
        OPTIONAL,
    ] = None
    """ROCM with `truncate: last`: the finished image is put back to the noise level at which the
    last step, which draws none, starts, with this many draws of noise, over which the gradient is
    averaged; each is an image to score. null: the gradient of the trajectory's own last step."""
    stop_input: Annotated[bool, OPTIONAL] = False
    """ROCM: stop the gradient at the input of the network, in every step."""


class Direct(Algorithm):
    """ROCM. With divergence `none` the reference is never evaluated."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.reference = settings.reference_gradient if self.divergence else None
        self.scorings = settings.low_variance or 1
        self.drawn: int | None = None  # steps that carry gradient, where they are drawn

    def differentiated_steps(self, policy: Policy) -> int:
        truncate, drawing = self.settings.truncate, len(policy.stds)
        steps = policy.steps - drawing if truncate == "last" else truncate or policy.steps
        return steps[1] if isinstance(steps, tuple) else steps

    def _require_gradient(self, policy: Policy, carried: int) -> None:
        """Refuse what `truncate` leaves nothing of on the chain of this policy."""
        last = policy.steps - len(policy.stds)
        redraws = self.settings.low_variance is not None
        if not carried or (redraws and carried != last):
            raise UserError(
                "truncate: last and low_variance are about the steps that draw no noise, and this"
                " policy's chain has none or gradient is to pass through others: set truncate to a"
                " number, and low_variance to null"
            )
        if redraws and policy.chain.last_step is None:
            raise UserError(
                "low_variance puts images back to the noise level at which the last step starts,"
                " and this policy's chain has no such level: set it to null"
            )
        if self.divergence and self.beta and isinstance(self.settings.truncate, str | int):
            if carried <= last and not self.compares_last:
                raise UserError(
                    f"truncate: {self.settings.truncate} leaves the divergence no gradient, as the"
                    f" last {last} steps draw no noise: raise truncate, or take divergence none"
                )

    def update(
        self, policy: Policy, reward: Reward, batches: Sequence[Batch], optimiser: Optimiser
    ) -> list[Statistics]:
        import torch

        if isinstance(range_ := self.settings.truncate, tuple):
            drawn = int(torch.randint(range_[0], range_[1] + 1, ()))
            self.drawn = optimiser.gather([drawn])[0]  # one for all processes
        seen = []
        for batch in batches:
            loss, statistics = self.loss(policy, reward, batch)
            optimiser.backward(loss / len(batches))
            seen.append(statistics)
        optimiser.step()
        return seen

    def loss(self, policy: Policy, reward: Reward, batch: Batch) -> tuple[Tensor, Statistics]:
        """-mean R + β mean Σ_k D(d²_k), d² reduced over latent dimensions before D is applied."""
        import torch

        require_differentiable(reward, self.settings.algorithm)
        carried = self.drawn or self.differentiated_steps(policy)
        self._require_gradient(policy, carried)
        redraws, stop = self.settings.low_variance is not None, self.settings.stop_input
        trajectory = policy.rollout(
            batch.embeddings,
            batch.noise,
            self.reference,
            carried=0 if redraws else carried,
            stop_input=stop,
            compare_last=self.compares_last,
        )
        images = [trajectory.latents]
        if redraws:
            images = self._redrawn(policy, batch, trajectory.latents)
        pictures = [policy.decode(latents) for latents in images]
        scores = torch.stack([reward.score(picture, batch.prompts) for picture in pictures]).mean(0)
        loss, seen = -scores.mean(), scores.detach()
        gates = self.gates(pictures[0], batch.prompts, seen)
        if self.divergence is None:
            return loss, Statistics(seen, loss.detach(), seen.new_zeros(len(seen)), None)
        summed, diagnostics = trajectory.squared_distances("sum"), {}
        distances, stds = summed, policy.stds
        if trajectory.last is not None:
            last = trajectory.last.squared_distance("sum")
            distances = torch.cat([summed, last[:, None]], 1)
            stds = torch.cat([stds, trajectory.last.std[None]])
            diagnostics["squared_distance_1"] = last.detach().mean()
        dimensions = 1 if self.settings.reduction == "sum" else batch.noise[0, 0].numel()
        noise_stds = self.noise_stds(policy)
        if noise_stds is not None:
            stds = noise_stds[: len(stds)]
        weights = self.step_weights(policy)
        # An infinite D must not turn into 0·∞; neither where β = 0 observes.
        used = [step for step, weight in enumerate(weights) if weight > 0]
        divergence = self.divergence((distances / dimensions)[:, used], stds[used])
        divergence = (stds.new_tensor(weights)[used] * divergence).sum(1)
        if self.beta:
            loss = loss + self.regularisation(divergence, gates)
        if gates is not None:
            diagnostics["gated"] = gates.mean()
        return loss, Statistics(
            seen, loss.detach(), divergence.detach(), summed.detach(), diagnostics
        )

    def _redrawn(self, policy: Policy, batch: Batch, latents: Tensor) -> list[Tensor]:
        """x_0 put back to the noise level of x_1, and brought from there to x_0 again, once per
        draw of noise, which depends on the image alone."""
        from rocm_core.policies import gaussian

        assert self.settings.low_variance and policy.chain.last_step
        signal, std = policy.chain.last_step
        keys = [repr(image.flatten()[0].item()) for image in batch.noise]
        shape = (self.settings.low_variance, *latents.shape[1:])
        noise = gaussian(self.settings.seed, keys, shape, "low variance").to(latents)
        return [
            policy.finish(signal * latents.detach() + std * draw, batch.embeddings)
            for draw in noise.unbind(1)
        ]
