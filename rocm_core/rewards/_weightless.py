"""What the scorers without weights share."""

from pathlib import Path

from rocm_core.errors import UserError


def refuse_weights(weights: Path | None, scorer: str) -> None:
    """Raises :class:`UserError` if a configuration gives weights to a scorer that has none."""
    if weights is not None:
        raise UserError(f"the scorer {scorer} needs no weights; set scorers.{scorer} to null")
