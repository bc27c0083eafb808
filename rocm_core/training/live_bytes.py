"""Bytes of the tensors that are alive, as a step makes them and lets them go."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
