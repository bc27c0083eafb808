"""Reading scorers' weights from local folders: safetensors, or .pt/.pth files without any code."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights
from transformers.utils import logging

from rocm_core.errors import UserError
from rocm_core.weights import (
    check_weights,
    mismatches,
    require_finite,
    require_float_files,
    require_floats,
    require_matching_keys,
    require_recorded,
)

Module = TypeVar("Module", bound=nn.Module)
Model = TypeVar("Model", bound=PreTrainedModel)

logging.disable_progress_bar()  # of reading weights: it writes into logs

_UNREADABLE = (
    AttributeError,
    OSError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    UnpicklingError,
    SafetensorError,
)


@contextlib.contextmanager
def readable(complaint: str) -> Iterator[None]:
    """Turn what goes wrong inside, reading a file, into a :class:`UserError` of that complaint."""
    try:
        yield
    except _UNREADABLE as error:
        raise UserError(f"{complaint} ({_reason(error)}); fetch it again") from None


def require_folder(weights: Path | None, scorer: str) -> Path:
    """The scorer's folder, checked; raises :class:`UserError` for one that is absent or damaged."""
    if weights is None:
        raise UserError(f"the scorer {scorer} needs weights; set scorers.{scorer} to their folder")
    if not weights.is_dir():
        raise UserError(f"{weights}, the folder of the scorer {scorer}, does not exist; fetch it")
    check_weights(weights)
    return weights


def read_tensors(path: Path) -> dict[str, Any]:
    """The contents of a weights file, on the CPU.

    A pickle is read only if a lock or manifest lists it, and then without running any code.
    """
    if path.suffix != ".safetensors":
        require_recorded(path)
    with readable(f"{path} can't be read as weights"):
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)


def build(make: Callable[[], Module]) -> Module:
    """The module that ``make`` builds, for :func:`fill`, without a random initialisation, which for
    a ViT-H takes three times as long as reading its weights from disk."""
    with no_init_weights():
        return make()


def fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into a module, which they must match name by name and shape by shape."""
    require_tensors(path, tensors)
    require_matching_keys(path, *mismatches(tensors, module.state_dict()))
    module.load_state_dict(tensors)


def require_tensors(path: Path, content: Any) -> None:
    """Raise :class:`UserError` unless a file's content maps names to finite tensors."""
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        raise UserError(f"{path} does not map names to tensors; fetch it again")
    require_floats(path, content)
    require_finite(path, content)


def load_model(cls: type[Model], folder: Path, unused: tuple[str, ...] = ()) -> Model:
    """A transformers model in float32 from its folder's config.json and model.safetensors.

    Without the latter, pytorch_model.bin is read as :func:`read_tensors` reads pickles. Weights
    whose names begin with one of ``unused`` may be there and are ignored.
    """
    source: dict[str, Any] = {"pretrained_model_name_or_path": folder}
    pickle = folder / "pytorch_model.bin"
    if pickle.is_file() and not (folder / "model.safetensors").is_file():
        tensors = read_tensors(pickle)
        require_tensors(pickle, tensors)
        with readable(f"{folder} can't be read as weights"):
            config = cls.config_class.from_pretrained(folder, local_files_only=True)
        source = {"pretrained_model_name_or_path": None, "config": config, "state_dict": tensors}
    else:
        with readable(f"{folder} can't be read as weights"):
            require_float_files(folder)
    with readable(f"{folder} can't be read as weights"):
        model, report = cls.from_pretrained(
            **source,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    require_matching_keys(
        folder,
        missing=report["missing_keys"],
        unknown=[key for key in report["unexpected_keys"] if not key.startswith(unused)],
        reshaped=report["mismatched_keys"],
    )
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in ``folder``/tokenizer, or in the folder itself."""
    inner = folder / "tokenizer"
    with readable(f"{folder} holds no readable tokenizer"):
        return AutoTokenizer.from_pretrained(
            inner if inner.is_dir() else folder, local_files_only=True
        )


def _reason(error: Exception) -> str:
    if isinstance(error, UnpicklingError):
        return "it is damaged or holds code, which is never run"
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0].rstrip(".")[:160]
