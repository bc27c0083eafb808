"""The LoRA adapter inside a diffusers network: adding, switching off, saving and loading it.

A network's name is that of its folder in a pipeline, by which diffusers finds its layers in a file.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rocm_core.errors import UserError
from rocm_core.policies.noise import gaussian
from rocm_core.provenance import atomic_write
from rocm_core.weights import (
    mismatches,
    require_finite,
    require_floats,
    require_matching_keys,
)

Network = Any  # one of diffusers' models, whose import takes seconds
ADAPTER = "default"
REFERENCE = "reference"  # the adapter of a reference that moves; without it the reference has none
METADATA = "lora_adapter_metadata"  # diffusers' name for the entry with rank and alpha


def add_adapter(
    network: Network, rank: int, alpha: float, targets: Sequence[str], seed: int
) -> None:
    """Add a trainable float32 adapter to every layer whose name ends in one of `targets`.

    Down-projections are drawn from N(0, 1/rank²), each from `seed` and its own name; up-projections
    are zero, so that the adapted model starts as the reference.
    """
    from peft import LoraConfig

    names = [name for name, _ in network.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise UserError(f"lora_targets: no layer of the network ends in {target!r}: correct it")
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights=True
    )
    try:
        network.add_adapter(config, ADAPTER)
    except ValueError as error:
        raise UserError(f"lora_targets {list(targets)} do not fit the network: {error}") from None
    with torch.no_grad():
        for name, parameter in lora_parameters(network).items():
            parameter.data = parameter.data.float()
            if ".lora_A." in name:
                parameter.copy_(gaussian(seed, [name], tuple(parameter.shape), "lora")[0] / rank)


def lora_parameters(network: Network) -> dict[str, nn.Parameter]:
    """The adapter's parameters, sorted, by the names they have in a file; {} without an adapter."""
    return {
        name.replace(f".{ADAPTER}.", "."): parameter
        for name, parameter in sorted(network.named_parameters())
        if f".lora_A.{ADAPTER}." in name or f".lora_B.{ADAPTER}." in name
    }


def add_reference(network: Network) -> dict[str, Tensor]:
    """Give the network a second adapter, which is that of the reference: the base at first.

    Returns its values by the names of `lora_parameters`; who changes them moves the reference.
    """
    network.add_adapter(network.peft_config[ADAPTER], REFERENCE)
    network.set_adapter(ADAPTER)
    layers = {name: layer for name, layer in network.named_modules() if _is_adapted(layer)}
    values = {}
    with torch.no_grad():
        for name, layer in layers.items():
            for part in ("lora_A", "lora_B"):
                own, moving = (getattr(layer, part)[a].weight for a in (ADAPTER, REFERENCE))
                moving.data = torch.zeros_like(own) if part == "lora_B" else own.detach().clone()
                values[f"{name}.{part}.weight"] = moving
    return values


def lora_alpha(network: Network) -> float:
    """The scale of the adapter, which counts alpha / rank."""
    return network.peft_config[ADAPTER].lora_alpha


@contextlib.contextmanager
def reference(network: Network) -> Iterator[None]:
    """Inside, the network is the reference: its adapter is off, or replaced by that of
    `add_reference`. Without an adapter, no change."""
    layers = adapted_layers(network)
    before = [(layer._disable_adapters, layer._active_adapter) for layer in layers]
    # peft's own switches also toggle requires_grad of every parameter: too slow for each
    # transition, and not to be done inside a backward pass that evaluates this one again.
    for layer in layers:
        if REFERENCE in layer.lora_A:
            layer._active_adapter = [REFERENCE]
        else:
            layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, state in zip(layers, before, strict=True):
            layer._disable_adapters, layer._active_adapter = state


def is_reference(network: Network) -> bool:
    """Whether the network is the reference now."""
    return any(
        layer._disable_adapters or layer._active_adapter == [REFERENCE]
        for layer in adapted_layers(network)[:1]
    )


def adapted_layers(network: Network) -> list[Any]:
    """peft's layers around those that an adapter changes."""
    return [module for module in network.modules() if _is_adapted(module)]


def _is_adapted(module: nn.Module) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


def scale_lora(network: Network, factor: float) -> None:
    """Multiply what the adapter changes: 0 is the reference, 1 leaves it as it is."""
    for layer in adapted_layers(network):
        layer.scaling[ADAPTER] *= factor


def merge_lora(network: Network) -> None:
    """Fold the adapter into the weights: the same network without the adapter's own products."""
    for layer in adapted_layers(network):
        layer.merge()


def save_lora(
    path: str | Path,
    network: Network,
    values: Mapping[str, Tensor] | None = None,
    name: str = "unet",
) -> None:
    """Write the adapter for `pipe.load_lora_weights(path)`; equal values give equal bytes.

    values: other values for the same parameters, a moving average say. Rank and alpha go into the
    metadata, without which diffusers would load an adapter of alpha ≠ rank at the wrong scale.
    """
    from safetensors.torch import save

    config = network.peft_config[ADAPTER]
    settings = {
        f"{name}.r": config.r,
        f"{name}.lora_alpha": config.lora_alpha,
        f"{name}.target_modules": sorted(config.target_modules),
    }
    values = lora_parameters(network) if values is None else values
    tensors = {f"{name}.{k}": v.detach().cpu().contiguous() for k, v in sorted(values.items())}
    # One entry only: safetensors writes several in an order that changes from process to process.
    content = save(tensors, {METADATA: json.dumps(settings, sort_keys=True)})
    with atomic_write(path) as file:
        file.write(content)


def load_lora(network: Network, path: str | Path, name: str = "unet") -> None:
    """Give the network the adapter that `save_lora` wrote to `path` in place of the one it has.

    Raises `UserError` for a file that is missing or damaged, that does not adapt exactly the layers
    it names with the rank it names, or whose numbers are not finite.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: name the lora.safetensors in it")
    if not path.is_file():
        raise UserError(f"{path} does not exist: train the cell first")
    tensors, settings = read_lora(path)
    wanted = {f"{name}.{key}" for key in ("r", "lora_alpha", "target_modules")}
    if settings.keys() != wanted:
        raise UserError(
            f"{path} must state {', '.join(sorted(wanted))} and nothing else in its"
            f" {METADATA}, but states {', '.join(sorted(settings)) or 'nothing'}: train it again"
        )
    rank, alpha, targets = (settings[f"{name}.{k}"] for k in ("r", "lora_alpha", "target_modules"))
    if not (isinstance(targets, list) and targets and all(isinstance(t, str) for t in targets)):
        raise UserError(f"{path} states {targets!r} in place of the layers' names: train it again")
    if any(".lora_A." in key and value.shape[:1] != (rank,) for key, value in tensors.items()):
        raise UserError(f"{path} states rank {rank}, but has tensors of another: train it again")
    if lora_parameters(network):
        network.delete_adapters(ADAPTER)
    try:
        add_adapter(network, rank, alpha, targets, seed=0)
    except UserError as error:
        raise UserError(f"{path} is not a LoRA of this network: {error}") from None
    adapter = {f"{name}.{key}": value for key, value in lora_parameters(network).items()}
    try:
        fix = "train it again on this base"
        require_matching_keys(path, *mismatches(tensors, adapter), fix)
    except UserError:
        network.delete_adapters(ADAPTER)
        raise
    with torch.no_grad():
        for key, value in tensors.items():
            adapter[key].copy_(value)


def read_lora(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file's tensors and what it states of them as JSON, {} for nothing.

    Raises `UserError` for a file that is damaged, for tensors that are not finite, and for a rank
    or alpha that is not a positive number.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            settings = json.loads((file.metadata() or {}).get(METADATA, "{}"))
        if not isinstance(settings, dict):
            raise ValueError(f"its {METADATA} is not a JSON object")
        for key, value in settings.items():
            if key.endswith(".r") and (type(value) is not int or value < 1):
                raise ValueError(f"its rank is {value!r}, not a positive integer")
            if key.endswith(".lora_alpha") and not (
                type(value) in (int, float) and 0 < value < math.inf
            ):
                raise ValueError(f"its alpha is {value!r}, not a positive number")
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be loaded as a LoRA ({reason}): restore it") from None
    # kohya's trainer writes an integer alpha as an integer tensor.
    require_floats(path, {k: v for k, v in tensors.items() if not k.endswith(".alpha")})
    # As they are used: of 64 bits some numbers are too large for 32.
    require_finite(path, {key: value.float() for key, value in tensors.items()})
    return tensors, settings
