"""How much of a rollout to recompute in its backward pass: as little as the memory allows.

Recomputing changes time and memory, never a number.
"""

import gc
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rocm_core.errors import UserError

# Nothing; each step of the chain; and in it each block of the U-Net and of the decoder.
Recomputation = Literal["none", "step", "block"]
MODES: tuple[Recomputation, ...] = get_args(Recomputation)

GIB = 2**30
USABLE = 0.9  # of a device's memory: the rest is lost to fragments and the driver


def choose_recomputation(
    limit: float | Literal["auto"], device: torch.device, predict: Callable[[Recomputation], float]
) -> Recomputation:
    """The fastest mode whose peak, as `predict` says in bytes, stays within `limit` GiB.

    "auto": within the device's own memory; where even that is too little, the leanest mode tries.
    Raises `UserError` where no mode keeps a limit that was given.
    """
    most = USABLE * memory_of(device) if limit == "auto" else limit * GIB
    needed = 0.0
    for mode in MODES:
        needed = predict(mode)
        if needed <= most:
            return mode
    if limit == "auto":
        return MODES[-1]
    raise UserError(
        f"memory: {limit:g} GiB is too little, as a step takes {needed / GIB:.2g} GiB even where "
        "every block is recomputed: raise memory, or lower batch_size"
    )


def memory_of(device: torch.device) -> float:
    """Bytes that this process may use: what is free on a GPU, or the machine's or job's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    job = os.environ.get("SLURM_MEM_PER_NODE")
    return min(machine, int(job) * 2**20) if job else machine


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
        if self.device is None:
            return self._now
        return torch.cuda.memory_allocated(self.device) - self._before

    def most(self) -> int:
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
