"""Reading scorers' weights from local folders: safetensors, or .pt/.pth files without any code."""

import contextlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights
from transformers.utils import logging

from rocm_core.errors import UserError
from rocm_core.weights import check_weights, require_matching_keys, require_recorded

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
    pickle.UnpicklingError,
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
    wanted = module.state_dict()
    both = wanted.keys() & tensors.keys()
    shapes = [(key, tensors[key].shape, wanted[key].shape) for key in both]
    require_matching_keys(
        path,
        missing=wanted.keys() - tensors.keys(),
        unknown=tensors.keys() - wanted.keys(),
        reshaped=[(key, held, shape) for key, held, shape in shapes if held != shape],
    )
    module.load_state_dict(tensors)


def load_model(cls: type[Model], folder: Path, unused: tuple[str, ...] = ()) -> Model:
    """A transformers model in float32 from its folder's config.json and model.safetensors.

    Without the latter, pytorch_model.bin is read as :func:`read_tensors` reads pickles. Weights
    whose names begin with one of ``unused`` may be there and are ignored.
    """
    safe = not (folder / "pytorch_model.bin").is_file() or (folder / "model.safetensors").is_file()
    if not safe:
        require_recorded(folder / "pytorch_model.bin")
    with readable(f"{folder} can't be read as weights"):
        model, report = cls.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=safe,
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
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged or holds code, which is never run"
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0].rstrip(".")[:160]
