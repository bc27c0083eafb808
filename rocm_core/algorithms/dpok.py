"""DPOK: policy gradient, a divergence to the reference, a learned baseline (Fan et al. 2023).

    maximise  E[ Σ_k clip(ρ_k, 1 ± ε) (R - V(x_k, c, k))/s - β D(p_k(·|θ), p_k(·|θ_ref)) ]

As google-research's release has it: a ratio beyond the clip has no gradient whatever the sign of
the advantage, and V regresses the final reward on state, prompt and step. There the two terms have
weights of their own; `beta` is the ratio of `kl_weight` to `reward_weight`. Its reward has a
standard deviation of one; here s is that of the first iteration's rewards, so that one β means the
same for every reward. V counts in the same unit, from the mean of those rewards, so that its
learning rate suits every reward too, and starts at zero. What the release calls KL is `epsilon`.
Advantages are taken before V is fitted to the samples: a V that has already seen them, as in the
release, overfits the few there are, and explains away what the policy should learn from.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from rocm_core.algorithms._policy_gradient import (
    ClippedSettings,
    PolicyGradient,
    Sample,
    beyond,
)
from rocm_core.algorithms.base import Optimiser, RegularisedSettings
from rocm_core.configuration import Whole, number
from rocm_core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from rocm_core.algorithms._value_function import ValueFunction
    from rocm_core.policies import Transition


class Settings(ClippedSettings, RegularisedSettings):
    """What DPOK has beside the settings of every policy gradient."""

    value_learning_rate: Annotated[float, number(0, 1000)] = 1e-4
    """DPOK: AdamW's learning rate of the value function."""
    value_updates: Annotated[Whole, number(1, 1_000_000, "steps")] = 1
    """DPOK: steps of the value function's optimiser per iteration, each on all its samples. The
    release's `v_step` counts gradients that are gathered for one step."""


class DPOK(PolicyGradient):
    """The value function and its optimiser are part of its state."""

    settings: Settings
    value: ValueFunction | None = None  # made when the first samples show its sizes

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._saved: dict[str, Any] = {}

    def advantages(
        self, samples: Sequence[Sample], optimiser: Optimiser
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        value = self.value = self.value or self._make(samples, optimiser)
        advantages = [
            (sample.reward[:, None] - value(sample).detach()) / value.std for sample in samples
        ]
        return advantages, {"value_loss": self._fit(value, samples, optimiser)}

    def loss(self, now: Transition, past: Transition, advantage: Tensor) -> tuple[Tensor, Tensor]:
        clip, ratio = self.settings.ratio_clip, self.ratio(now, past)
        return -(advantage * ratio.clamp(1 - clip, 1 + clip)).mean(), beyond(ratio, clip)

    def state_dict(self) -> dict[str, Any]:
        if self.value is None:
            return self._saved
        return {"value": self.value.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._saved, self.value = state, None

    def _make(self, samples: Sequence[Sample], optimiser: Optimiser) -> ValueFunction:
        """The value function as it was saved, or a new one, alike in all processes."""
        import torch

        from rocm_core.algorithms._value_function import ValueFunction
        from rocm_core.policies import HIDDEN

        sample = samples[0]
        latent, width = sample.batch.noise[0, 0], sample.batch.embeddings[HIDDEN].shape[2]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.settings.seed)  # and no device's
            value = ValueFunction(latent.numel(), width, len(sample.transitions))
        rewards = optimiser.gather(torch.cat([sample.reward for sample in samples]).tolist())
        value.mean.fill_(statistics.fmean(rewards))
        value.std.fill_(statistics.pstdev(rewards) or 1.0)
        value.to(latent.device)
        self.adam = torch.optim.AdamW(value.parameters(), lr=self.settings.value_learning_rate)
        if self._saved:
            try:
                value.load_state_dict(self._saved["value"])
                self.adam.load_state_dict(self._saved["adam"])
            except (LookupError, RuntimeError, TypeError, ValueError):
                raise UserError(
                    "the value function in the unfinished state does not fit: remove the state"
                ) from None
        return value

    def _fit(self, value: ValueFunction, samples: Sequence[Sample], optimiser: Optimiser) -> Tensor:
        """Regress rewards on the states; returns the mean squared error before that."""
        errors = []
        for _ in range(self.settings.value_updates):
            total = samples[0].reward.new_zeros(())
            for sample in samples:
                error = (value(sample) - sample.reward[:, None]).square().mean() / len(samples)
                (error / value.std.square()).backward()
                total += error.detach()
            optimiser.average_gradients(list(value.parameters()))
            self.adam.step()
            self.adam.zero_grad()
            errors.append(total)
        return errors[0]
