"""What is loaded is complete, known and finite, or refused in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rocm_core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_FLOATS = ("F16", "BF16", "F32", "F64", "float16", "bfloat16", "float32", "float64")
_COUNTS = ("position_ids", "num_batches_tracked")  # not weights, though some files contain them


def require_matching_keys(
    path: Path,
    missing: Iterable[str] = (),
    unknown: Iterable[str] = (),
    reshaped: Iterable[tuple[str, Iterable[int], Iterable[int]]] = (),
    fix: str = "fetch the weights that belong to it",
) -> None:
    """Raise `UserError` for `path` unless its tensors are exactly those of the network.

    The libraries would initialise a missing one at random and ignore an unknown one. `reshaped`:
    name, actual shape and expected shape. Token positions, which older files contain, are not
    weights.
    """
    positions = "position_ids"
    problems = [f"{key} is missing" for key in missing if not key.endswith(positions)]
    problems += [f"{key} is unknown" for key in unknown if not key.endswith(positions)]
    problems += [
        f"{key} has shape {tuple(actual)} instead of {tuple(wanted)}"
        for key, actual, wanted in reshaped
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{path} does not fit its architecture: {min(problems)}{more}; {fix}")


def mismatches(
    actual: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[list[str], list[str], list[tuple[str, Iterable[int], Iterable[int]]]]:
    """The names that are missing and unknown, and (name, actual, expected shape) where they differ:
    what `require_matching_keys` takes."""
    shapes = [(key, actual[key].shape, wanted[key].shape) for key in wanted.keys() & actual.keys()]
    return (
        list(wanted.keys() - actual.keys()),
        list(actual.keys() - wanted.keys()),
        [(key, held, shape) for key, held, shape in shapes if held != shape],
    )


def require_finite(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise `UserError` for `path` if a tensor contains NaN or an infinity; one pass, no copies."""
    import torch

    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        if not torch.stack(torch.aminmax(tensor.detach())).isfinite().all():
            raise UserError(f"{path}: {name} is not finite: fetch or make the file again")


def require_floats(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise `UserError` for `path` if a weight is not of floating point, from which PyTorch would
    convert it without a word."""
    for name, tensor in tensors.items():
        _require_float(path, name, str(tensor.dtype).removeprefix("torch."))


def require_float_files(folder: Path) -> None:
    """`require_floats` for the .safetensors files in a folder, from their headers alone."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                _require_float(path, name, file.get_slice(name).get_dtype())


def _require_float(path: str | Path, name: str, dtype: str) -> None:
    if dtype not in _FLOATS and not name.endswith(_COUNTS):
        raise UserError(f"{path}: {name} is of type {dtype}: fetch weights of 16 to 64 bit floats")
