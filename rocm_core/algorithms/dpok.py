"""DPOK: policy gradient, a divergence to the reference, a learned baseline (Fan et al. 2023).

    maximise  E[ Σ_k clip(ρ_k, 1 ± ε) (R - V(x_k, c, k)) - β KL(p_k(·|θ) ‖ p_k(·|θ_ref)) ]

As google-research's release has it: a ratio beyond the clip has no gradient whatever the sign of
the advantage, and V regresses the final reward on state, prompt and step. There the two terms have
weights of their own; `beta` is the ratio of `kl_weight` to `reward_weight`. KL is exact, d²/2.
V counts in standard deviations from the mean of the first rewards, so that its learning rate suits
every reward, and starts at zero. Advantages are taken before it is fitted to the samples: a V that
has seen them, as in the release, knows some dozens of them by heart, and explains away what the
policy should learn from.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rocm_core.algorithms._policy_gradient import PolicyGradient, Sample, beyond
from rocm_core.algorithms.base import Optimiser
from rocm_core.configuration import TrainingSettings
from rocm_core.policies import Policy, Transition

SETTINGS = (
    "reduction",
    "beta_calibration_steps",
    "updates_per_iteration",
    "inner_epochs",
    "ratio_clip",
    "value_learning_rate",
    "value_updates",
)
RATIO_CLIP = 1e-4


class DPOK(PolicyGradient):
    """The value function and its optimiser are part of its state."""

    value: "ValueFunction | None" = None  # made when the first samples show its sizes

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__(settings)
        self._saved: dict[str, Any] = {}

    def advantages(
        self, policy: Policy, samples: Sequence[Sample], optimiser: Optimiser
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        value = self.value = self.value or self._make(samples, optimiser)
        with torch.no_grad():
            advantages = [sample.reward[:, None] - value(sample) for sample in samples]
        return advantages, {"value_loss": self._fit(value, samples, optimiser)}

    def loss(self, now: Transition, past: Transition, advantage: Tensor) -> tuple[Tensor, Tensor]:
        clip, ratio = self.settings.ratio_clip, self.ratio(now, past)
        gain = advantage * ratio.clamp(1 - clip, 1 + clip)
        return -gain.mean(), beyond(ratio, clip)

    def state_dict(self) -> dict[str, Any]:
        if self.value is None:
            return self._saved
        return {"value": self.value.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._saved, self.value = state, None

    def _make(self, samples: Sequence[Sample], optimiser: Optimiser) -> "ValueFunction":
        """The value function as it was saved, or a new one, alike in all processes."""
        sample = samples[0]
        latent, width = sample.batch.noise[0, 0], sample.batch.embeddings.shape[2]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.settings.seed)  # and no device's
            value = ValueFunction(latent.numel(), width, len(sample.transitions))
        rewards = optimiser.gather(torch.cat([sample.reward for sample in samples]).tolist())
        value.mean.fill_(statistics.fmean(rewards))
        value.std.fill_(statistics.pstdev(rewards) or 1.0)
        value.to(latent.device)
        self.adam = torch.optim.AdamW(value.parameters(), lr=self.settings.value_learning_rate)
        if self._saved:
            value.load_state_dict(self._saved["value"])
            self.adam.load_state_dict(self._saved["adam"])
        return value

    def _fit(
        self, value: "ValueFunction", samples: Sequence[Sample], optimiser: Optimiser
    ) -> Tensor:
        """Regress rewards on the states; returns the mean squared error before that."""
        before = torch.zeros(())
        for update in range(self.settings.value_updates):
            total = torch.zeros_like(samples[0].reward[0])
            for sample in samples:
                error = (value(sample) - sample.reward[:, None]).square().mean() / len(samples)
                (error / value.std.square()).backward()
                total += error.detach()
            optimiser.average_gradients(list(value.parameters()))
            self.adam.step()
            self.adam.zero_grad()
            before = total if update == 0 else before
        return before


class ValueFunction(nn.Module):
    """V(x_k, c, k): a perceptron of the latents, the mean token of the prompt and the step.

    It says how many `std` above `mean` the reward will be, and nothing but `mean` at first. Latents
    are divided by the root of their size: what is mostly noise must not drown the prompt.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, latent_size: int, text_width: int, steps: int) -> None:
        super().__init__()
        inputs = latent_size + text_width + steps
        last = nn.Linear(256, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), last
        )
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def forward(self, sample: Sample) -> Tensor:
        """Values `(N, T)` of the states visited, in single precision."""
        states = torch.stack([t.state for t in sample.transitions], 1).float().flatten(2)
        embeddings = sample.batch.embeddings.float()
        count, steps = states.shape[:2]
        text = embeddings.mean(1)[:, None].expand(-1, steps, -1)
        step = torch.eye(steps, device=states.device).expand(count, -1, -1)
        inputs = [states / math.sqrt(states.shape[2]), text, step]
        values = self.layers(torch.cat(inputs, 2))[..., 0]
        return self.mean + self.std * values
