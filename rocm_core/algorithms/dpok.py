"""DPOK: policy gradient, a divergence to the reference, a learned baseline (Fan et al. 2023).

    maximise  E[ Σ_k clip(ρ_k, 1 ± ε) (R - V(x_k, c, k)) - β KL(p_k(·|θ) ‖ p_k(·|θ_ref)) ]

As google-research's release has it: a ratio beyond the clip has no gradient whatever the sign of
the advantage, and V regresses the final reward on state, prompt and step. There the two terms have
weights of their own; `beta` is the ratio of `kl_weight` to `reward_weight`. KL is exact, d²/2.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rocm_core.algorithms import Optimiser
from rocm_core.algorithms._policy_gradient import PolicyGradient, Sample
from rocm_core.policies import Policy

SETTINGS = (
    "reduction",
    "beta_calibration_steps",
    "updates_per_iteration",
    "inner_epochs",
    "ratio_clip",
    "value_learning_rate",
    "value_updates",
)


class DPOK(PolicyGradient):
    """The value function and its optimiser are part of its state."""

    value: "ValueFunction"  # built when the first batch shows its sizes
    adam: torch.optim.AdamW

    def advantages(
        self, policy: Policy, samples: Sequence[Sample], optimiser: Optimiser
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        if not hasattr(self, "value"):
            latents, embeddings = samples[0].batch.noise[0, 0], samples[0].batch.embeddings
            steps = len(samples[0].transitions)
            self._build([latents.numel(), embeddings.shape[2], steps], latents)
        loss = self._fit(samples, optimiser)
        with torch.no_grad():
            advantages = [sample.reward[:, None] - self._values(sample) for sample in samples]
        return advantages, {"value_loss": loss}

    def surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        clip = self.settings.ratio_clip
        return -advantage * ratio.clamp(1 - clip, 1 + clip)

    def state_dict(self) -> dict[str, Any]:
        if not hasattr(self, "value"):
            return {}
        value, adam = self.value.state_dict(), self.adam.state_dict()
        return {"sizes": self.value.sizes, "value": value, "adam": adam}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self._build(state["sizes"], next(iter(state["value"].values())))
            self.value.load_state_dict(state["value"])
            self.adam.load_state_dict(state["adam"])

    def _build(self, sizes: Sequence[int], like: Tensor) -> None:
        with torch.random.fork_rng(devices=[]):  # alike in all processes
            torch.manual_seed(self.settings.seed)
            self.value = ValueFunction(*sizes).to(like.device)
        rate = self.settings.value_learning_rate
        self.adam = torch.optim.AdamW(self.value.parameters(), lr=rate)

    def _fit(self, samples: Sequence[Sample], optimiser: Optimiser) -> Tensor:
        """Regress rewards on what was visited; returns the mean squared error before that."""
        errors: list[Tensor] = []
        for _ in range(self.settings.value_updates):
            self.adam.zero_grad()
            error = torch.stack(
                [(self._values(s) - s.reward[:, None]).square().mean() for s in samples]
            ).mean()
            error.backward()
            optimiser.average_gradients(list(self.value.parameters()))
            self.adam.step()
            errors.append(error.detach())
        return errors[0]

    def _values(self, sample: Sample) -> Tensor:
        """V of every state visited, `(N, T)`."""
        states = torch.stack([t.state for t in sample.transitions], 1).float()
        return self.value(states, sample.batch.embeddings.float())


class ValueFunction(nn.Module):
    """V(x_k, c, k): a perceptron of the latents, the mean token of the prompt and the step."""

    def __init__(self, latent_size: int, text_width: int, steps: int) -> None:
        super().__init__()
        self.sizes = [latent_size, text_width, steps]
        self.layers = nn.Sequential(
            nn.Linear(sum(self.sizes), 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()
        )
        self.output = nn.Linear(256, 1)

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        """Values `(N, T)` of states `(N, T, C, h, w)` under embeddings `(N, L, D)`."""
        count, steps = states.shape[:2]
        text = embeddings.mean(1)[:, None].expand(-1, steps, -1)
        step = torch.eye(steps, device=states.device).expand(count, -1, -1)
        return self.output(self.layers(torch.cat([states.flatten(2), text, step], 2)))[..., 0]
