"""Stable Diffusion's U-Net, text encoder and autoencoder, and consistency models of that shape.

Guidance enters through the embedding of ω where the U-Net has one (`time_cond_proj_dim`), never as
a second pass. Without, it is classifier-free, and as in diffusers' pipelines a scale of 1 or less
leaves it out.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rocm_core.errors import UserError
from rocm_core.policies.denoisers.denoiser import Block, Denoiser
from rocm_core.policies.lora import ADAPTER, adapted_layers, lora_parameters, read_lora
from rocm_core.weights import (
    check_weights,
    mismatches,
    require_float_files,
    require_matching_keys,
)

PIPELINES = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline")
PARTS = ("unet", "vae", "text_encoder", "tokenizer")
# Never a pickle; and what does not fit is reported, to be refused in our words.
_STRICT = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}


def load(
    folder: Path, guidance_scale: float, device: torch.device, dtype: torch.dtype, lora: str | None
) -> "StableDiffusion":
    """Load the networks in the pipeline's folder, never from the network.

    lora: a folder with one in a layout that diffusers knows, to be merged into the U-Net's weights.
    Raises `UserError` for a part that is missing or cannot be read.
    """
    parts = read_parts(folder, lora)
    return StableDiffusion(**parts, guidance_scale=guidance_scale, device=device, dtype=dtype)


def read_parts(folder: Path, lora: str | None) -> dict[str, Any]:
    """`PARTS` as `StableDiffusion` takes them, for `load` and for classes that derive from it."""
    import diffusers
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if missing := [part for part in PARTS if not (folder / part).is_dir()]:
        raise UserError(f"{folder} is not a complete pipeline: {', '.join(missing)} missing")
    classes = {
        "unet": diffusers.UNet2DConditionModel,
        "vae": diffusers.AutoencoderKL,
        "text_encoder": transformers.CLIPTextModel,
        "tokenizer": transformers.CLIPTokenizer,
    }
    parts: dict[str, Any] = {}
    for part in PARTS:
        options = {} if part == "tokenizer" else _STRICT
        try:
            parts[part] = classes[part].from_pretrained(
                str(folder / part), local_files_only=True, **options
            )
        except Exception as error:  # the libraries raise a dozen kinds for a damaged folder
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"{folder / part} cannot be loaded ({reason}): restore it") from error
        if options:
            parts[part], report = parts[part]
            kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
            require_matching_keys(folder / part, *(report[kind] for kind in kinds))
            require_float_files(folder / part)
    if lora is not None:
        _merge(parts["unet"], Path(lora))
    return parts


def _merge(unet: Any, folder: Path) -> None:
    """Fold the LoRA in a folder into the U-Net; raises `UserError` unless all of it fits.

    diffusers merges what it can and logs the rest: layers that it does not know, alphas that it
    cannot assign, a half of a pair, the magnitudes of DoRA.
    """
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader
    from diffusers.utils import convert_unet_state_dict_to_peft

    check_weights(folder)
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise UserError(f"{folder} must hold one .safetensors file, not {len(files)}: correct it")
    try:
        content, settings = read_lora(files[0])
        if others := [key for key in content if "dora_scale" in key]:
            raise ValueError(f"{others[0]} is of a DoRA")
        tensors, alphas = Loader.lora_state_dict(content, unet_config=unet.config)
        if others := [key for key in tensors if not key.startswith("unet.")]:
            raise ValueError(f"{others[0]} is not of the U-Net")
        tensors = {k.removeprefix("unet."): value for k, value in tensors.items()}
        tensors = convert_unet_state_dict_to_peft(tensors)
        unet.load_lora_adapter(
            {f"unet.{key}": value for key, value in tensors.items()},
            prefix="unet",
            network_alphas=alphas,
            metadata=settings or None,
            adapter_name=ADAPTER,
        )
        require_matching_keys(files[0], *mismatches(tensors, lora_parameters(unet)))
        layers = adapted_layers(unet)
        if alphas and sorted(alphas.values()) != sorted(x.lora_alpha[ADAPTER] for x in layers):
            raise ValueError("not each layer has an alpha, or not one that diffusers can assign")
        if not all(0 < layer.scaling[ADAPTER] < math.inf for layer in layers):
            raise ValueError("the scale alpha/rank of a layer is not a positive number")
        if missing := _without_adapter(unet, settings):
            raise ValueError(f"{missing[0]} is missing, which its metadata names")
        unet.fuse_lora()
        unet.unload_lora()
    except UserError as error:
        raise UserError(f"{folder} is not a LoRA of this U-Net: {error}") from None
    except Exception as error:  # of a dozen kinds, as above
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"{folder} is not a LoRA of this U-Net ({reason}): restore it") from error


def _without_adapter(unet: Any, settings: Mapping[str, Any]) -> list[str]:
    """The layers that a LoRA's metadata names, by the ends of their names, and that have none."""
    targets = settings.get("unet.target_modules")
    narrowed = ("exclude_modules", "layers_to_transform", "target_parameters")
    if not isinstance(targets, list) or any(settings.get(f"unet.{key}") for key in narrowed):
        return []
    return [
        name
        for name, layer in unet.named_modules()
        if f".{name}".endswith(tuple(f".{target}" for target in targets))
        and layer not in adapted_layers(unet)
    ]


class StableDiffusion(Denoiser):
    """`network` is the U-Net, `(N, L, D)` embeddings are the text encoder's last hidden states."""

    network_name = "unet"
    network: Any
    guidance: Tensor | None  # (1, time_cond_proj_dim)
    unconditional: Tensor  # (1, L, D) embedding of the empty prompt

    def __init__(
        self,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        guidance_scale: float,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(device, dtype)
        self.network, self.vae, self.text_encoder = unet, vae, text_encoder
        self.tokenizer = tokenizer
        self.guidance_scale = guidance_scale
        self.requires_grad_(False).eval().to(device, dtype)
        config, embedding = unet.config, None
        self.latent_shape = config.in_channels, config.sample_size, config.sample_size
        self.pixels_per_latent = 2 ** (len(vae.config.block_out_channels) - 1)
        if width := config.time_cond_proj_dim:
            embedding = guidance_embedding(guidance_scale, width).to(device, dtype)
        self.register_buffer("guidance", embedding, persistent=False)
        self.register_buffer("unconditional", self.encode([""]), persistent=False)
        self.passes = 2 if guidance_scale > 1 and not width else 1

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Last hidden states `(N, L, D)` of the text encoder, in batches of 64 prompts."""
        if self.text_encoder is None:
            raise ValueError("the text encoder was dropped")
        length = self.tokenizer.model_max_length
        chunks = []
        for start in range(0, len(prompts), 64):
            texts = list(prompts[start : start + 64])
            tokens = self.tokenizer(
                texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            chunks.append(self.text_encoder(tokens.input_ids.to(self.device))[0])
        return torch.cat(chunks)

    def forget_text(self) -> None:
        """Drop the text encoder."""
        self.text_encoder = None

    def predict(self, state: Tensor, timestep: Tensor, embeddings: Tensor) -> Tensor:
        """The U-Net's output; with classifier-free guidance, without + ω (conditional - without)
        from one batch of both."""
        states = state.to(self.dtype)
        if self.passes == 2:
            states = torch.cat([states, states])
            embeddings = torch.cat([self.unconditional.expand_as(embeddings), embeddings])
        with self.autocast():
            output = self.network(
                states,
                timestep,
                encoder_hidden_states=embeddings,
                timestep_cond=self.guidance,
                return_dict=False,
            )[0].to(state.dtype)
        if self.passes == 1:
            return output
        without, conditional = output.chunk(2)
        return without + self.guidance_scale * (conditional - without)

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(N, 3, H, W)` in [0, 1] of the autoencoder's decoder."""
        config = self.vae.config
        latents = latents / config.scaling_factor + (config.shift_factor or 0)
        with self.autocast():
            images = self.vae.decode(latents.to(self.dtype), return_dict=False)[0]
        return (images.to(latents.dtype) / 2 + 0.5).clamp(0, 1)

    def checkpoint_blocks(self, call: Block | None) -> None:
        """Use diffusers' own gradient checkpointing of U-Net and autoencoder, through `call`."""
        for network in (self.network, self.vae):
            if call is None:
                network.disable_gradient_checkpointing()
            else:
                network.enable_gradient_checkpointing(call)


def guidance_embedding(guidance_scale: float, width: int) -> Tensor:
    """Sinusoids of 1000·(guidance_scale - 1), `(1, width)`, as the diffusers pipeline has them."""
    half = width // 2
    frequency = torch.exp(torch.arange(half) * (-torch.log(torch.tensor(10000.0)) / (half - 1)))
    angle = torch.tensor(guidance_scale - 1) * 1000.0 * frequency
    return torch.nn.functional.pad(torch.cat([angle.sin(), angle.cos()]), (0, width % 2))[None]
