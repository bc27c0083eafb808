"""Reading a local diffusers pipeline folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rocm_core._torchvision  # noqa: F401

from rocm_core.errors import UserError
from rocm_core.weights import check_weights, require_fit

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
SAFE = ("unet", "vae", "text_encoder")
# Never a pickle; and what does not fit is reported, to be refused in our words.
_STRICT = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}


@dataclass(frozen=True)
class Components:
    """The parts of a text-to-image latent diffusion pipeline."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any


def load_components(model: str, lora: str | None = None) -> Components:
    """Load the parts of the pipeline folder `model`, never from the network.

    The scheduler is of the class that its own config names. lora: a folder with one in a layout
    that diffusers knows, to be merged into the U-Net's weights. Raises `UserError` for a folder
    that is incomplete or cannot be read.
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
            options = _STRICT if part in SAFE else {}
            loaded[part] = classes[part].from_pretrained(
                str(folder / part), local_files_only=True, **options
            )
        except Exception as error:  # the libraries raise a dozen kinds for a damaged folder
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"{folder / part} cannot be loaded ({reason}): restore it") from error
        if part in SAFE:
            loaded[part], report = loaded[part]
            kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
            require_fit(folder / part, *(report[kind] for kind in kinds))
    if lora is not None:
        _merge(loaded["unet"], Path(lora))
    return Components(**loaded)


def _merge(unet: Any, folder: Path) -> None:
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    check_weights(folder)
    try:
        tensors, alphas, metadata = Loader.lora_state_dict(
            str(folder),
            unet_config=unet.config,
            use_safetensors=True,
            local_files_only=True,
            return_lora_metadata=True,
        )
        if others := [key for key in tensors if not key.startswith("unet.")]:
            raise ValueError(f"{others[0]} is not of the U-Net")
        Loader.load_lora_into_unet(tensors, alphas, unet, metadata=metadata)
        unet.fuse_lora()
        unet.unload_lora()
    except Exception as error:  # of a dozen kinds, as above
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{folder} is no LoRA of this U-Net ({reason}): restore it") from error
