"""The plan of activation checkpointing: as little as the memory allows.

Checkpointing changes time and memory, never a number.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rocm_core.algorithms import BackpropagationSettings, Batch
from rocm_core.configuration import TrainingSettings
from rocm_core.errors import UserError
from rocm_core.policies import COMPILED_MODES, MODES, ActivationCheckpointing, Policy, uncompiled
from rocm_core.rewards import Reward
from rocm_core.training.live_bytes import cost

GIB = 2**30
CHAIN = 3  # tensors of a latent's size that a step of the chain keeps beside the network's
USABLE = 0.9  # of a device's memory: the rest is lost to fragments and the driver


def plan_checkpointing(
    settings: TrainingSettings,
    reference: str | None,
    policy: Policy,
    reward: Reward,
    batch: Batch,
) -> ActivationCheckpointing:
    """What a training checkpoints, measured at its first batch; nothing where no gradient passes
    through the whole rollout. reference: of its rollouts, see `Policy.rollout`."""
    if not isinstance(settings, BackpropagationSettings):
        return "none"
    predict = functools.partial(predict_peak, policy, reward, batch, reference)
    modes = COMPILED_MODES if settings.compile else MODES
    return choose_checkpointing(settings.memory, policy.device, predict, modes)


def choose_checkpointing(
    limit: float | Literal["auto"],
    device: torch.device,
    predict: Callable[[ActivationCheckpointing], float],
    modes: Sequence[ActivationCheckpointing] = MODES,
) -> ActivationCheckpointing:
    """The first of `modes` whose peak, as `predict` says in bytes, stays within `limit` GiB.

    "auto": within the device's own memory; where even that is too little, the last mode tries.
    Raises `UserError` where no mode keeps a limit that was given.
    """
    most = USABLE * memory_of(device) if limit == "auto" else limit * GIB
    needed = 0.0
    for mode in modes:
        needed = predict(mode)
        if needed <= most:
            return mode
    if limit == "auto":
        return mode
    raise UserError(
        f"memory: {limit:g} GiB is too little, as a step takes {needed / GIB:.2g} GiB even with"
        f" activation checkpointing of every {mode}: raise memory, or lower batch_size"
        + ", or leave compile out"
        * (mode != MODES[-1])
    )


def memory_of(device: torch.device) -> float:
    """Bytes that this process may use: what is free on a GPU, or the machine's or job's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    job = os.environ.get("SLURM_MEM_PER_NODE")
    return min(machine, int(job) * 2**20) if job else machine


def predict_peak(
    policy: Policy,
    reward: Reward,
    batch: Batch,
    reference: str | None,
    mode: ActivationCheckpointing,
) -> float:
    """Most bytes that a step takes at once, weights and AdamW included.

    Measured are one pass of the network, with and without its adapter, and one of decoder and
    reward; a step takes K of the first. The first state is noise, so its reference needs no
    backward pass. A compiled network is measured as it is uncompiled.
    """
    noise, device = batch.noise, policy.device
    parameters = [p for p in policy.network.parameters() if p.requires_grad]
    state = noise[:, 0].clone().requires_grad_()

    def mean() -> Tensor:
        with uncompiled(policy.network):
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

    policy.activation_checkpointing = "block" if mode == "block" else "none"
    kept, peak = cost(mean, to_all, device)
    reference_kept, reference_peak = (0.0, 0.0)
    if reference == "full":
        reference_kept, reference_peak = cost(unadapted, to_state, device)
    _, decoder_peak = cost(scores, to_state, device)
    graphs = kept * policy.steps + reference_kept * max(0, len(policy.stds) - 1)
    chain = CHAIN * policy.steps * state.numel() * state.element_size()
    resident = _resident_bytes([policy, reward], parameters)
    if mode == "none":
        return resident + chain + graphs + max(decoder_peak, peak - kept)
    return resident + chain + max(peak, reference_peak, decoder_peak)


def _resident_bytes(modules: Sequence[Any], trained: Sequence[Tensor]) -> int:
    """Bytes of the modules' weights, and of the trained ones' gradients and AdamW moments."""
    tensors: dict[int, int] = {}
    for module in modules:
        if isinstance(module, nn.Module):
            for tensor in [*module.parameters(), *module.buffers()]:
                tensors[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
    return sum(tensors.values()) + 3 * sum(t.numel() * t.element_size() for t in trained)
