"""Weights must match their network: no tensor missing, none left over, none reshaped."""

from collections.abc import Iterable
from pathlib import Path

from rocm_core.errors import UserError

Reshaped = tuple[str, Iterable[int], Iterable[int]]


def require_fit(
    path: Path,
    missing: Iterable[str] = (),
    unknown: Iterable[str] = (),
    reshaped: Iterable[Reshaped] = (),
) -> None:
    """Raise `UserError` for `path` unless its tensors are exactly those of the network.

    The libraries would initialise a missing one at random and ignore an unknown one. `reshaped`:
    name, actual shape and expected shape. Token positions, which older files contain, are not
    weights.
    """
    problems = [f"{key} is missing" for key in missing]
    problems += [f"{key} is unknown" for key in unknown if not key.endswith("position_ids")]
    problems += [
        f"{key} has shape {tuple(found)} instead of {tuple(wanted)}"
        for key, found, wanted in reshaped
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(
            f"{path} does not fit its architecture: {min(problems)}{more};"
            " fetch the weights that belong to it"
        )
