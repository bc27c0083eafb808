"""The parts of a diffusers pipeline's folder, loaded or refused, and a LoRA merged into one."""

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rocm_core.errors import UserError
from rocm_core.policies.lora import ADAPTER, adapted_layers, lora_parameters, read_lora
from rocm_core.weights import (
    check_weights,
    mismatches,
    require_float_files,
    require_matching_keys,
)

PEFT = "base_model.model."  # before the names of layers in a file of peft's own
# Never a pickle; and what does not fit is reported, to be refused in our words.
_STRICT = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}


def load_parts(folder: Path, classes: Mapping[str, str]) -> dict[str, Any]:
    """The parts of a pipeline's folder, never from the network.

    classes: of diffusers or transformers, by the folders of the parts. Raises `UserError` for a
    part that is missing or cannot be read.
    """
    import diffusers
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if missing := [part for part in classes if not (folder / part).is_dir()]:
        raise UserError(f"{folder} is not a complete pipeline: {', '.join(missing)} missing")
    parts: dict[str, Any] = {}
    for part, name in classes.items():
        kind = getattr(diffusers, name, None) or getattr(transformers, name)
        options = {} if "Tokenizer" in name else _STRICT
        if not options:
            _require_sentencepiece(folder / part)
        try:
            parts[part] = kind.from_pretrained(str(folder / part), local_files_only=True, **options)
        except Exception as error:  # the libraries raise a dozen kinds for a damaged folder
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"{folder / part} cannot be loaded ({reason}): restore it") from error
        if options:
            parts[part], report = parts[part]
            kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
            require_matching_keys(folder / part, *(report[kind] for kind in kinds))
            require_float_files(folder / part)
    return parts


def _require_sentencepiece(folder: Path) -> None:
    """Raise `UserError` if a tokenizer needs packages that are not here; transformers would ask for
    another one."""
    from transformers.utils import is_protobuf_available, is_sentencepiece_available

    if (folder / "tokenizer.json").exists() or not any(folder.glob("*.model")):
        return
    if not (is_sentencepiece_available() and is_protobuf_available()):
        raise UserError(
            f"{folder} is a SentencePiece model, which takes sentencepiece and protobuf to read:"
            " pip install 'rocm-core[t5]'"
        )


def merge_into(network: Any, name: str, folder: Path, pipeline: Any) -> None:
    """Fold the LoRA in a folder into the network; raises `UserError` unless all of it fits.

    name: of the network's folder. pipeline: the class of diffusers that knows the layouts of such
    files; one that loads no LoRA stands for the names of peft's own.
    diffusers merges what it can and logs the rest: layers that it does not know, alphas that it
    cannot assign, a half of a pair, the magnitudes of DoRA.
    """
    from diffusers.utils import convert_unet_state_dict_to_peft

    check_weights(folder)
    kind = "U-Net" if name == "unet" else name
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise UserError(f"{folder} must hold one .safetensors file, not {len(files)}: correct it")
    try:
        content, settings = read_lora(files[0])
        if others := [key for key in content if "dora_scale" in key]:
            raise ValueError(f"{others[0]} is of a DoRA")
        if hasattr(pipeline, "lora_state_dict"):
            tensors, alphas = _in_diffusers_names(content, network, name, pipeline)
        else:
            tensors, settings = (_renamed(part, name) for part in (content, settings))
            alphas = None
        if others := [key for key in tensors if not key.startswith(f"{name}.")]:
            raise ValueError(f"{others[0]} is not of the {kind}")
        tensors = {key.removeprefix(f"{name}."): value for key, value in tensors.items()}
        tensors = convert_unet_state_dict_to_peft(tensors)
        network.load_lora_adapter(
            {f"{name}.{key}": value for key, value in tensors.items()},
            prefix=name,
            network_alphas=alphas,
            metadata=settings or None,
            adapter_name=ADAPTER,
        )
        require_matching_keys(files[0], *mismatches(tensors, lora_parameters(network)))
        layers = adapted_layers(network)
        if alphas and sorted(alphas.values()) != sorted(x.lora_alpha[ADAPTER] for x in layers):
            raise ValueError("not each layer has an alpha, or not one that diffusers can assign")
        if not all(0 < layer.scaling[ADAPTER] < math.inf for layer in layers):
            raise ValueError("the scale alpha/rank of a layer is not a positive number")
        if missing := _without_adapter(network, name, settings):
            raise ValueError(f"{missing[0]} is missing, which its metadata names")
        network.fuse_lora()
        network.unload_lora()
    except UserError as error:
        raise UserError(f"{folder} is not a LoRA of this {kind}: {error}") from None
    except Exception as error:  # of a dozen kinds, as above
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"{folder} is not a LoRA of this {kind} ({reason}): restore it") from error


def _in_diffusers_names(
    content: dict[str, Any], network: Any, name: str, pipeline: Any
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A LoRA's tensors in diffusers' own names and its alphas, as the pipeline's loader has them:
    each pipeline's is asked in another way."""
    options: dict[str, Any] = {"unet_config": network.config} if name == "unet" else {}
    if "return_alphas" in inspect.signature(pipeline.lora_state_dict).parameters:
        options["return_alphas"] = True
    found = pipeline.lora_state_dict(content, **options)
    return found if isinstance(found, tuple) else (found, None)


def _renamed(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What peft wrote, as diffusers would have named it."""
    return {
        f"{name}.{key.removeprefix(PEFT)}" if key.startswith(PEFT) else key: value
        for key, value in content.items()
    }


def _without_adapter(network: Any, name: str, settings: Mapping[str, Any]) -> list[str]:
    """The layers that a LoRA's metadata names, by the ends of their names, and that have none."""
    targets = settings.get(f"{name}.target_modules")
    narrowed = ("exclude_modules", "layers_to_transform", "target_parameters")
    if not isinstance(targets, list) or any(settings.get(f"{name}.{key}") for key in narrowed):
        return []
    return [
        name
        for name, layer in network.named_modules()
        if f".{name}".endswith(tuple(f".{target}" for target in targets))
        and layer not in adapted_layers(network)
    ]
