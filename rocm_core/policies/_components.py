"""Reading a local diffusers pipeline folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rocm_core._torchvision  # noqa: F401

from rocm_core.errors import UserError
from rocm_core.weights import check_weights

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
SAFE = ("unet", "vae", "text_encoder")


@dataclass(frozen=True)
class Components:
    """The parts of a text-to-image latent diffusion pipeline."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any


def load_components(model: str) -> Components:
    """Load the parts of the pipeline folder `model`, never from the network.

    The scheduler is of the class that its own config names. Raises `UserError` for a folder that is
    incomplete or cannot be read.
    """
    import diffusers
    import transformers

    transformers.utils.logging.disable_progress_bar()
    folder = Path(model)
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise UserError(f"{model} is no diffusers pipeline folder: {', '.join(missing)} missing")
    check_weights(folder)
    classes = {
        "unet": diffusers.UNet2DConditionModel,
        "vae": diffusers.AutoencoderKL,
        "text_encoder": transformers.CLIPTextModel,
        "tokenizer": transformers.CLIPTokenizer,
    }
    loaded = {}
    for part in PARTS:
        try:
            if part == "scheduler":
                config = json.loads((folder / part / "scheduler_config.json").read_text())
                classes[part] = getattr(diffusers, config["_class_name"])
            options = {"use_safetensors": True} if part in SAFE else {}  # never a pickle
            loaded[part] = classes[part].from_pretrained(
                str(folder / part), local_files_only=True, **options
            )
        except Exception as error:  # the libraries raise a dozen kinds for a damaged folder
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"{folder / part} cannot be loaded ({reason}): restore it") from error
    return Components(**loaded)
