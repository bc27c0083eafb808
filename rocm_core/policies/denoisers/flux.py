"""FLUX.1's transformer, CLIP and T5, and autoencoder; FLUX.1-schnell is the one of few steps.

The transformer reads latents in patches of 2 × 2. Guidance, where it was distilled, is an
embedding, never a second pass; FLUX.1-schnell has none, and takes half as many tokens of T5.
"""

from typing import Any

import torch
from torch import Tensor

from rocm_core.policies.denoisers.denoiser import HIDDEN, Embeddings
from rocm_core.policies.denoisers.pipeline import FromPipeline

PIPELINES = ("FluxPipeline",)
POOLED = "pooled"


class Flux(FromPipeline):
    """`network` is the transformer, which is told the states of T5's tokens and CLIP's pooled
    embedding."""

    kind = "FluxPipeline"
    parts = {
        "transformer": "FluxTransformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "T5EncoderModel",
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "T5Tokenizer",
    }
    guided = False

    def __init__(
        self, pipeline: Any, guidance_scale: float, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(pipeline, guidance_scale, device, dtype)
        self.patch = 2  # the configuration counts packed latents

    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents that the model is made for: its configuration says no size."""
        size = self.pipeline.default_sample_size
        return self.network.config.in_channels // 4, size, size

    @property
    def tokens(self) -> int:
        """The number of an image's patches."""
        return (self.latent_shape[1] // self.patch) ** 2

    def sigmas(self, steps: int) -> tuple[float, ...]:
        """Equal steps from 1, which the scheduler shifts."""
        return tuple(1 - index / steps for index in range(steps))

    def encode_some(self, prompts: list[str]) -> Embeddings:
        length = 512 if self.network.config.guidance_embeds else 256
        hidden, pooled, _ = self.pipeline.encode_prompt(
            prompts, device=self.device, max_sequence_length=length
        )
        return {HIDDEN: hidden, POOLED: pooled}

    def evaluate(self, states: Tensor, timestep: Tensor, embeddings: Embeddings) -> Tensor:
        pipeline, hidden = self.pipeline, embeddings[HIDDEN]
        count, channels, height, width = states.shape
        places = height // 2, width // 2
        guidance = None
        if self.network.config.guidance_embeds:
            guidance = torch.full([count], self.guidance_scale, device=states.device)
        output = self.network(
            hidden_states=pipeline._pack_latents(states, count, channels, height, width),
            timestep=timestep.expand(count) / 1000,
            guidance=guidance,
            pooled_projections=embeddings[POOLED],
            encoder_hidden_states=hidden,
            txt_ids=hidden.new_zeros(hidden.shape[1], 3),
            img_ids=pipeline._prepare_latent_image_ids(
                count, *places, device=states.device, dtype=states.dtype
            ),
            return_dict=False,
        )[0]
        scale = pipeline.vae_scale_factor
        return pipeline._unpack_latents(output, height * scale, width * scale, scale)


load = Flux.from_folder
