"""Stable Diffusion's U-Net, text encoder and autoencoder, and consistency models of that shape.

Guidance enters through the embedding of ω where the U-Net has one (`time_cond_proj_dim`), never as
a second pass. Without, it is classifier-free, and as in diffusers' pipelines a scale of 1 or less
leaves it out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rocm_core.policies.denoisers.denoiser import HIDDEN, Denoiser, Embeddings
from rocm_core.policies.denoisers.parts import load_parts, merge_into
from rocm_core.policies.denoisers.words import Words

PIPELINES = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline")
PARTS = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
}


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
    from diffusers import StableDiffusionPipeline

    parts = load_parts(folder, PARTS)
    if lora is not None:
        merge_into(parts["unet"], "unet", Path(lora), StableDiffusionPipeline)
    return parts


class StableDiffusion(Denoiser):
    """`network` is the U-Net, embeddings are the text encoder's last hidden states."""

    network_name = "unet"
    network: Any
    guidance: Tensor | None  # (1, time_cond_proj_dim)

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
        self.tokenizer, self._words = tokenizer, Words(tokenizer)
        self.guidance_scale = guidance_scale
        self.requires_grad_(False).eval().to(device, dtype)
        config, embedding = unet.config, None
        self.latent_shape = config.in_channels, config.sample_size, config.sample_size
        self.pixels_per_latent = 2 ** (len(vae.config.block_out_channels) - 1)
        if width := config.time_cond_proj_dim:
            embedding = guidance_embedding(guidance_scale, width).to(device, dtype)
        self.register_buffer("guidance", embedding, persistent=False)
        self.register_buffer(f"without_{HIDDEN}", self.encode([""])[HIDDEN], persistent=False)
        self.passes = 2 if guidance_scale > 1 and not width else 1

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Embeddings:
        """Last hidden states `(N, L, D)` of the text encoder, in batches of 64 prompts; warns of
        words that the embedded world's captions do not have."""
        if self.text_encoder is None:
            raise ValueError("the text encoder was dropped")
        self._words.warn_of_unknown(prompts)
        length = self.tokenizer.model_max_length
        chunks = []
        for start in range(0, len(prompts), 64):
            texts = list(prompts[start : start + 64])
            tokens = self.tokenizer(
                texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            chunks.append(self.text_encoder(tokens.input_ids.to(self.device))[0])
        return {HIDDEN: torch.cat(chunks)}

    def forget_text(self) -> None:
        """Drop the text encoder."""
        self.text_encoder = None

    def evaluate(self, states: Tensor, timestep: Tensor, embeddings: Embeddings) -> Tensor:
        return self.network(
            states,
            timestep,
            encoder_hidden_states=embeddings[HIDDEN],
            timestep_cond=self.guidance,
            return_dict=False,
        )[0]


def guidance_embedding(guidance_scale: float, width: int) -> Tensor:
    """Sinusoids of 1000·(guidance_scale - 1), `(1, width)`, as the diffusers pipeline has them."""
    half = width // 2
    frequency = torch.exp(torch.arange(half) * (-torch.log(torch.tensor(10000.0)) / (half - 1)))
    angle = torch.tensor(guidance_scale - 1) * 1000.0 * frequency
    return torch.nn.functional.pad(torch.cat([angle.sin(), angle.cos()]), (0, width % 2))[None]
