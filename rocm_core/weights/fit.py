"""Weights must fit the network they are for: no tensor missing, none left over, none reshaped."""

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
    """Raise `UserError` for `path` unless its tensors are all that the network has and no others.

    The libraries would draw a missing one at random and leave an unknown one out. `reshaped`: name,
    shape found and shape wanted. Token positions, which older files hold, are no weights.
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
