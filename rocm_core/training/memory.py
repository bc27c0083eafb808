"""The plan of activation checkpointing: as little as the memory allows.

Checkpointing changes time and memory, never a number.
"""

import functools
import gc
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rocm_core.algorithms import BackpropagationSettings, Batch
from rocm_core.configuration import TrainingSettings
from rocm_core.errors import UserError
from rocm_core.jobs import whole_number
from rocm_core.policies import COMPILED_MODES, MODES, ActivationCheckpointing, Policy, uncompiled
from rocm_core.rewards import Reward

GIB = 2**30
CHAIN = 3  # tensors of a latent's size that a step of the chain keeps beside the network's
USABLE = 0.9  # of a device's memory: the rest is lost to fragments and the driver


def plan_checkpointing(
    settings: TrainingSettings,
    reference: str | None,
    policy: Policy,
    reward: Reward,
    batch: Batch,
    steps: int | None = None,
) -> ActivationCheckpointing:
    """What a training checkpoints, measured at its first batch; nothing where no gradient passes
    through a rollout. reference: of its rollouts, see `Policy.rollout`; steps: how many of the last
    carry gradient, by default K."""
    if not isinstance(settings, BackpropagationSettings):
        return "none"
    predict = functools.partial(predict_peak, policy, reward, batch, reference, steps=steps)
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
    job = whole_number("SLURM_MEM_PER_NODE")  # MiB; Slurm says 0 for all of the node's
    return min(machine, job * 2**20) if job else machine


def predict_peak(
    policy: Policy,
    reward: Reward,
    batch: Batch,
    reference: str | None,
    mode: ActivationCheckpointing,
    steps: int | None = None,
) -> float:
    """Most bytes that a step takes at once, weights and AdamW included.

    Measured are one pass of the network, with and without its adapter or both at once, and one of
    decoder and reward; a training step takes `steps` of the first, by default K. The first state is
    noise, so its reference needs no backward pass. A compiled network is measured as it is
    uncompiled.
    """
    noise, device = batch.noise, policy.device
    parameters = [p for p in policy.network.parameters() if p.requires_grad]
    state = noise[:, 0].clone().requires_grad_()

    def adapted(state: Tensor = state, both: bool = False) -> Tensor:
        with uncompiled(policy.network):
            return torch.stack(policy.means(0, state, batch.embeddings, both))

    def unadapted() -> Tensor:
        with policy.reference():
            return adapted()

    def scores() -> Tensor:
        return reward.score(policy.decode(state), batch.prompts)

    def to_state(result: Tensor) -> None:
        torch.autograd.grad(result.sum(), state, retain_graph=reference == "stop")

    def to_all(result: Tensor) -> None:
        wanted: list[Tensor] = [state, *parameters]
        if reference == "stop":
            to_state(result[:1])
            wanted = [*parameters]
        torch.autograd.grad(result.sum(), wanted, allow_unused=True)

    policy.activation_checkpointing = "block" if mode == "block" else "none"
    kept, peak = cost(adapted, to_all, device)
    steps = policy.steps if steps is None else steps
    graphs, drawn = kept * steps, max(0, len(policy.stds) - (policy.steps - steps))
    reference_peak = 0.0
    if reference is not None and policy.compensates and drawn:
        first = functools.partial(adapted, noise[:, 0], both=True)
        first_kept, _ = cost(first, lambda result: None, device)
        later = functools.partial(adapted, both=True)
        later_kept, reference_peak = cost(later, to_all, device)
        graphs += first_kept - kept + (later_kept - kept) * (drawn - 1)
        kept, peak = later_kept, max(peak, reference_peak)
    elif reference == "full":
        reference_kept, reference_peak = cost(unadapted, to_state, device)
        graphs += reference_kept * max(0, drawn - 1)
    _, decoder_peak = cost(scores, to_state, device)
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


def cost(
    forward: Callable[[], Tensor], backward: Callable[[Tensor], Any], device: torch.device
) -> tuple[float, float]:
    """Bytes that a pass keeps for its backward pass, and the most that both take at once.

    Both are infinite where the device's memory does not suffice.
    """
    gc.collect()
    try:
        with torch.enable_grad(), LiveBytes(device) as live:
            result = forward()
            kept = live.now()
            backward(result)
            del result
            return kept, live.most()
    except torch.OutOfMemoryError:
        return float("inf"), float("inf")


class LiveBytes(TorchDispatchMode):
    """Inside, counts the bytes of tensors that were made inside and are alive.

    A GPU's allocator knows them itself, with what kernels use in passing; elsewhere every operation
    is watched.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device if device.type == "cuda" else None
        self._alive: dict[int, int] = {}
        self._now = self._most = self._before = 0

    def __enter__(self) -> "LiveBytes":
        if self.device is None:
            return super().__enter__()
        torch.cuda.reset_peak_memory_stats(self.device)
        self._before = torch.cuda.memory_allocated(self.device)
        return self

    def __exit__(self, *error: Any) -> None:
        if self.device is None:
            super().__exit__(*error)

    def now(self) -> int:
        """Bytes alive."""
        if self.device is None:
            return self._now
        return torch.cuda.memory_allocated(self.device) - self._before

    def most(self) -> int:
        """The most bytes that were alive at once."""
        if self.device is None:
            return self._most
        return torch.cuda.max_memory_allocated(self.device) - self._before

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {storage._cdata for storage in _storages((args, kwargs))}
        result = function(*args, **(kwargs or {}))
        for storage in _storages(result):
            key = storage._cdata
            if key not in self._alive and key not in given:  # no view of something older
                self._alive[key] = storage.nbytes()
                self._now += storage.nbytes()
                self._most = max(self._most, self._now)
                weakref.finalize(storage, self._forget, key)
        return result

    def _forget(self, key: int) -> None:
        self._now -= self._alive.pop(key)


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    return (value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor))
