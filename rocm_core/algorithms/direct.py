"""Direct reward optimisation with a distributional regulariser: ROCM (equation 10, algorithm 2).

    maximise  E[ R(x_0, c) - β Σ_{k=2..K} D_f(p_k(·|θ, x_k, c) ‖ p_k(·|θ_ref, x_k, c)) ]

by backpropagation through the whole trajectory. Equation 10 prints +β; algorithm 2 has the minus.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rocm_core.algorithms import Algorithm, Batch, Optimiser, Statistics
from rocm_core.divergences import load_divergence
from rocm_core.errors import UserError
from rocm_core.memory import Recomputation, choose_recomputation, cost
from rocm_core.policies import Policy
from rocm_core.rewards import Reward
from rocm_core.settings import TrainingSettings

SETTINGS = ("reduction", "reference_gradient", "beta_calibration_steps", "memory")
DIFFERENTIATES = True


class Direct(Algorithm):
    """ROCM. With divergence `none` the reference is never evaluated."""

    def __init__(self, settings: TrainingSettings) -> None:
        super().__init__(settings)
        self.beta = float(settings.beta)
        regularised = settings.divergence != "none"
        self.divergence = load_divergence(settings.divergence) if regularised else None
        self.reference = settings.reference_gradient if regularised else None
        self.recomputation: Recomputation | None = None  # None: to be chosen at the first batch

    def state_dict(self) -> dict[str, Any]:
        return {"recomputation": self.recomputation}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.recomputation = state["recomputation"]

    def update(
        self, policy: Policy, reward: Reward, batches: Sequence[Batch], optimiser: Optimiser
    ) -> list[Statistics]:
        seen = []
        for batch in batches:
            loss, statistics = self.loss(policy, reward, batch)
            optimiser.backward(loss / len(batches))
            seen.append(statistics)
        optimiser.step()
        return seen

    def loss(self, policy: Policy, reward: Reward, batch: Batch) -> tuple[Tensor, Statistics]:
        """-mean R + β mean Σ_k D(d²_k), d² reduced over latent dimensions before D is applied."""
        if not reward.differentiable:
            raise UserError(
                f"reward {reward.name} is not differentiable: "
                f"algorithm {self.settings.algorithm} needs one that is"
            )
        if self.recomputation is None:
            predict = functools.partial(_predict_peak, policy, reward, batch, self.reference)
            limit = self.settings.memory
            self.recomputation = choose_recomputation(limit, policy.device, predict)
        policy.recomputation = self.recomputation
        trajectory = policy.rollout(batch.embeddings, batch.noise, self.reference)
        scores = reward.score(policy.decode(trajectory.latents), batch.prompts)
        loss = -scores.mean()
        if self.divergence is None:
            return loss, Statistics(
                scores.detach(), loss.detach(), scores.new_zeros(len(scores)), None
            )
        summed = trajectory.squared_distances("sum")
        dimensions = batch.noise[0, 0].numel()
        reduced = summed if self.settings.reduction == "sum" else summed / dimensions
        divergence = self.divergence(reduced, policy.stds).sum(1)
        if self.beta:  # β = 0 observes: an infinite D must not turn into 0·∞
            loss = loss + self.beta * divergence.mean()
        statistics = Statistics(
            scores.detach(), loss.detach(), divergence.detach(), summed.detach()
        )
        return loss, statistics


def _predict_peak(
    policy: Policy, reward: Reward, batch: Batch, reference: str | None, mode: Recomputation
) -> float:
    """Most bytes that a step takes at once, weights and AdamW included.

    Measured are one pass of the U-Net, with and without its adapter, and one of decoder and reward;
    a step takes K of the first. The first state is noise, so its reference needs no backward pass.
    """
    noise, device = batch.noise, policy.device
    parameters = [parameter for parameter in policy.unet.parameters() if parameter.requires_grad]
    state = noise[:, 0].clone().requires_grad_()

    def mean() -> Tensor:
        return policy.mean(0, state, batch.embeddings)

    def unadapted() -> Tensor:
        with policy.reference():
            return mean()

    def scores() -> Tensor:
        return reward.score(policy.decode(state), batch.prompts)

    def to_state(result: Tensor) -> None:
        torch.autograd.grad(result.sum(), state, retain_graph=reference == "stop")

    def to_all(result: Tensor) -> None:
        if reference == "stop":
            to_state(result)
        torch.autograd.grad(result.sum(), [state, *parameters], allow_unused=True)

    policy.recomputation = "block" if mode == "block" else "none"
    kept, peak = cost(mean, to_all, device)
    reference_kept, reference_peak = (0.0, 0.0)
    if reference == "full":
        reference_kept, reference_peak = cost(unadapted, to_state, device)
    _, decoder_peak = cost(scores, to_state, device)
    graphs = kept * policy.steps + reference_kept * max(0, len(policy.stds) - 1)
    chain = _CHAIN * policy.steps * state.numel() * state.element_size()
    resident = _resident_bytes([policy, reward], parameters)
    if mode == "none":
        return resident + chain + graphs + max(decoder_peak, peak - kept)
    return resident + chain + max(peak, reference_peak, decoder_peak)


_CHAIN = 3  # tensors of a latent's size that a step of the chain keeps beside the U-Net's


def _resident_bytes(modules: Sequence[Any], trained: Sequence[Tensor]) -> int:
    """Bytes of the modules' weights, and of the trained ones' gradients and AdamW moments."""
    tensors: dict[int, int] = {}
    for module in modules:
        if isinstance(module, nn.Module):
            for tensor in [*module.parameters(), *module.buffers()]:
                tensors[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
    return sum(tensors.values()) + 3 * sum(t.numel() * t.element_size() for t in trained)
