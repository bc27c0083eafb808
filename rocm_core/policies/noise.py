"""Random numbers that depend on names alone, so that resuming and re-batching change nothing.

Every draw has its own counter-based generator (Philox), keyed by sha256 of (seed, stream, key):
there is no generator whose position would have to be saved.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch


def _generator(seed: int, stream: str, key: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}\0{stream}\0{key}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def gaussian(seed: int, keys: Sequence[str], shape: tuple[int, ...], stream: str) -> torch.Tensor:
    """Standard normal numbers, `(len(keys), *shape)`, float32, on the CPU.

    Entry i depends on (seed, stream, keys[i]) and `shape` only: not on the other keys.
    """
    draws = [_generator(seed, stream, key).standard_normal(shape, dtype=np.float32) for key in keys]
    return torch.from_numpy(np.stack(draws)) if draws else torch.empty(0, *shape)


def permutation(seed: int, key: str, count: int, stream: str) -> list[int]:
    """0 … count-1 in an order that depends on (seed, stream, key) and `count` only."""
    return _generator(seed, stream, key).permutation(count).tolist()


def integer(seed: int, key: str, stream: str) -> int:
    """A number in [0, 2**63) that depends on (seed, stream, key) only, to seed other generators."""
    return int(_generator(seed, stream, key).integers(2**63))
