"""What made a set of images, and what the ledger takes it for."""

from dataclasses import dataclass
from typing import Any

from rocm_core.grid import METHODS, Cell, Method, name_of

# Of which is asked whether they tame reward hacking.
_ALGORITHMS = ("grpo", "rebel", "hybrid")


@dataclass(frozen=True)
class Source:
    """What made a set of images: one trained cell, or a base model (no reward, seed or cell).

    `method` is spelled as in paths and in the frames' column: with what a sweep chose for it.
    """

    name: str
    method: str
    policy: str
    reward: str | None = None
    seed: int | None = None
    cell: Cell | None = None

    @property
    def family(self) -> str:
        """The method without what a sweep chose; a base is its own."""
        return self.cell.method if self.cell else self.method

    @property
    def swept(self) -> dict[str, Any]:
        """The settings that a sweep chose, with their values."""
        return dict(self.cell.swept) if self.cell else {}

    @property
    def algorithm(self) -> str | None:
        """The update rule; None: a base."""
        return self.cell.settings.algorithm if self.cell else None

    @property
    def divergence(self) -> str:
        """What keeps the training near its base; "none" for a base, too."""
        return self.cell.settings.divergence if self.cell else "none"

    @property
    def like(self) -> str:
        """What the method would be called on the policy `consistency`, unless the field has its
        own name for it: direct-flow-kl is like rocm-kl."""
        if self.cell is None or self.family in METHODS:
            return self.family
        algorithm, divergence = self.cell.settings.algorithm, self.divergence
        return name_of(Method(algorithm, "consistency", divergence))

    @property
    def is_rocm(self) -> bool:
        """Whether this is ROCM: first-order training of the consistency policy."""
        return (self.algorithm, self.policy) == ("direct", "consistency")

    @property
    def has_trick(self) -> bool:
        """Whether a sweep gave it a setting against reward hacking."""
        return bool(self.cell and self.cell.has_trick)

    @property
    def is_contestant(self) -> bool:
        """Whether the ledger asks if it tames reward hacking (Q4)."""
        return self.has_trick or self.algorithm in _ALGORITHMS
