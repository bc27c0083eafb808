"""What is known of a base model before it is loaded or fetched: its pipeline and scheduler."""

import contextlib
import json
from typing import Any

from rocm_core.errors import UserError
from rocm_core.plugins import facts, module_of, names
from rocm_core.provenance import located
from rocm_core.weights import class_of

INDEX, SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"


def default_chain(model: str) -> str | None:
    """The chain that belongs to the scheduler of a model; None where it is not known."""
    scheduler = _class(model, SCHEDULER)
    return next((n for n in names("chains") if scheduler in facts("chains", n)["SCHEDULERS"]), None)


def denoiser(model: str) -> str | None:
    """The denoiser that a model is loaded with; None where it is not known."""
    pipeline = _class(model, INDEX)
    own = (n for n in names("denoisers") if pipeline in facts("denoisers", n)["PIPELINES"])
    return next(own, None)


def require_denoiser(model: str, key: str) -> None:
    """Raise `UserError` for a model whose pipeline, as far as it is known, no denoiser loads."""
    pipeline = _class(model, INDEX)
    if pipeline and denoiser(model) is None:
        known = {p for name in names("denoisers") for p in facts("denoisers", name)["PIPELINES"]}
        raise UserError(
            f"{key}: {model} is a {pipeline}, which no denoiser loads; they load"
            f" {', '.join(sorted(known))}"
        )


def denoiser_modules(model: str) -> list[str]:
    """The modules of the denoiser that a model is loaded with; of all where it is not known."""
    own = denoiser(model)
    known = names("denoisers") if own is None else [own]
    return [module_of("denoisers", name, "model") for name in known]


def scheduler_says(model: str, key: str) -> Any:
    """The value of a key in a model's scheduler_config.json; None without it, and before the model
    is fetched."""
    return _value(model, SCHEDULER, key)


def _class(model: str, file: str) -> str | None:
    """The class that a file of a model names: as the table of weights says, which is the same
    before the model is fetched and after, else as the file does."""
    return class_of(model, file) or _value(model, file, "_class_name")


def _value(model: str, file: str, key: str) -> Any:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return json.loads((located(model) / file).read_text(encoding="utf-8")).get(key)
    return None
