"""SDXL's U-Net, two text encoders and autoencoder, and few-step models of that shape.

The U-Net is also told the pooled embedding of the second encoder and the size of the image. As in
`stable_diffusion`, guidance enters through the embedding of ω where there is one, else in a second
pass, where no prompt is zeros unless the pipeline's configuration says otherwise.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rocm_core.policies.denoisers.denoiser import HALF, HIDDEN, Embeddings
from rocm_core.policies.denoisers.pipeline import FromPipeline

PIPELINES = ("StableDiffusionXLPipeline",)
POOLED = "pooled"


def load(
    folder: Path, guidance_scale: float, device: torch.device, dtype: torch.dtype, lora: str | None
) -> "StableDiffusionXL":
    """Load the networks in the pipeline's folder, and merge a LoRA into the U-Net.

    Raises `UserError` for a part that is missing or cannot be read.
    """
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    options = {"force_zeros_for_empty_prompt": index.get("force_zeros_for_empty_prompt", True)}
    return StableDiffusionXL.from_folder(
        folder, guidance_scale, device, dtype, lora, add_watermarker=False, **options
    )


class StableDiffusionXL(FromPipeline):
    """`network` is the U-Net; its autoencoder overflows in half precision, so it stays float32."""

    kind = "StableDiffusionXLPipeline"
    parts = {
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "CLIPTokenizer",
    }
    network_name = "unet"
    guidance: Tensor | None  # (1, time_cond_proj_dim)

    def __init__(
        self, pipeline: Any, guidance_scale: float, device: torch.device, dtype: torch.dtype
    ) -> None:
        width = pipeline.unet.config.time_cond_proj_dim
        self.guided = not width
        super().__init__(pipeline, guidance_scale, device, dtype)
        if dtype in HALF and self.vae.config.force_upcast:
            self.vae.float()
        embedding = None
        if width:
            scale = torch.tensor([guidance_scale - 1])
            embedding = pipeline.get_guidance_scale_embedding(scale, width).to(device, dtype)
        self.register_buffer("guidance", embedding, persistent=False)

    def encode_some(self, prompts: list[str]) -> Embeddings:
        hidden, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False
        )
        return {HIDDEN: hidden, POOLED: pooled}

    @torch.no_grad()
    def unconditional(self) -> Embeddings:
        """Zeros, or the embeddings of the empty prompt where the pipeline says so."""
        _, hidden, _, pooled = self.pipeline.encode_prompt([""], device=self.device)
        return {HIDDEN: hidden, POOLED: pooled}

    def evaluate(self, states: Tensor, timestep: Tensor, embeddings: Embeddings) -> Tensor:
        size, pooled = (self.resolution, self.resolution), embeddings[POOLED]
        times = self.pipeline._get_add_time_ids(size, (0, 0), size, states.dtype, pooled.shape[1])
        return self.network(
            states,
            timestep,
            encoder_hidden_states=embeddings[HIDDEN],
            timestep_cond=self.guidance,
            added_cond_kwargs={
                "text_embeds": pooled,
                "time_ids": times.to(states.device).expand(len(states), -1),
            },
            return_dict=False,
        )[0]

    def unscale(self, latents: Tensor) -> Tensor:
        """Some SDXL models standardise each channel of their latents."""
        config = self.vae.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            return super().unscale(latents)
        shift, scale = (latents.new_tensor(part)[:, None, None] for part in (mean, std))
        return latents * scale / config.scaling_factor + shift
