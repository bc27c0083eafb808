"""What a rollout leaves: its stochastic steps, with their densities and distances."""

import math
from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class Transition:
    """One stochastic step: x_{k-1} ~ N(mean, std² I) given x_k. Latents are `(N, C, h, w)`.

    With reference="stop", `mean` carries gradient to the parameters only, else to the state too.
    """

    timestep: int | float
    state: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor  # ()
    next_state: torch.Tensor
    reference_mean: torch.Tensor | None

    def log_prob(self, reduction: Literal["sum", "mean"] = "sum") -> torch.Tensor:
        """log N(next_state; mean, std² I), `(N,)`: summed or averaged over latent dimensions."""
        z = (self.next_state - self.mean) / self.std
        density = -0.5 * z.square() - self.std.log() - 0.5 * math.log(2 * math.pi)
        return _reduce(density, reduction)

    def log_ratio(
        self, reduction: Literal["sum", "mean"] = "sum", base: torch.Tensor | None = None
    ) -> torch.Tensor:
        """log of the next state's density over that of N(base, std² I), `(N,)`, reduced as
        `log_prob`; base None: the reference's mean.

        Exactly 0 for equal means. A difference of two log-probabilities, which reach tens of
        thousands, would be rounded to the thousandth: more than ratios are clipped at.
        """
        base = self._reference_mean if base is None else base
        middle = self.next_state - (self.mean + base) / 2
        return _reduce((self.mean - base) / self.std * (middle / self.std), reduction)

    def squared_distance(self, reduction: Literal["sum", "mean"] = "sum") -> torch.Tensor:
        """d² = |mean - reference mean|²/std², `(N,)`: summed or averaged over latent dimensions."""
        return _reduce((self.change / self.std).square(), reduction)

    @property
    def change(self) -> torch.Tensor:
        """Mean less reference mean, `(N, C, h, w)`."""
        return self.mean - self._reference_mean

    @property
    def _reference_mean(self) -> torch.Tensor:
        if self.reference_mean is None:
            raise ValueError("this transition was made without a reference")
        return self.reference_mean


@dataclass(frozen=True)
class Trajectory:
    """What a rollout leaves: final latents x_0 `(N, C, h, w)` and the stochastic steps in order;
    last: `Policy.last_step`, if it was to be compared."""

    latents: torch.Tensor
    transitions: list[Transition]
    last: Transition | None = None

    def squared_distances(self, reduction: Literal["sum", "mean"] = "sum") -> torch.Tensor:
        """d² of each stochastic step, `(N, K-1)`; needs a rollout with a reference."""
        columns = [step.squared_distance(reduction) for step in self.transitions]
        return torch.stack(columns, 1) if columns else self.latents.new_zeros(len(self.latents), 0)


def _reduce(values: torch.Tensor, reduction: Literal["sum", "mean"]) -> torch.Tensor:
    flat = values.flatten(1)
    return flat.sum(1) if reduction == "sum" else flat.mean(1)
