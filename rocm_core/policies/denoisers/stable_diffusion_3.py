"""Stable Diffusion 3's transformer, three text encoders and autoencoder; SD3.5-turbo is one of few
steps. T5 may be missing, as the pipeline allows, which has zeros for its tokens then. A model that
has no room for T5's states beside CLIP's was made without these tokens too, and its pipeline is to
be called with `max_sequence_length=0`.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from rocm_core.policies.denoisers.denoiser import HIDDEN, Embeddings
from rocm_core.policies.denoisers.parts import load_parts
from rocm_core.policies.denoisers.pipeline import FromPipeline

PIPELINES = ("StableDiffusion3Pipeline",)
POOLED = "pooled"


class StableDiffusion3(FromPipeline):
    """`network` is the transformer, which is told the states of CLIP's and T5's tokens and CLIP's
    pooled embeddings."""

    kind = "StableDiffusion3Pipeline"
    parts = {
        "transformer": "SD3Transformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
        "tokenizer": "CLIPTokenizer",
        "tokenizer_2": "CLIPTokenizer",
        "tokenizer_3": "T5Tokenizer",
    }

    @classmethod
    def load_parts(cls, folder: Path) -> dict[str, Any]:
        """The pipeline's parts; T5 and its tokenizer are None where its index says so."""
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        absent = [part for part in cls.parts if index.get(part) == [None, None]]
        there = {part: kind for part, kind in cls.parts.items() if part not in absent}
        return load_parts(folder, there) | dict.fromkeys(absent)

    @property
    def tokens(self) -> int:
        """The number of an image's patches."""
        return (self.latent_shape[1] // self.patch) ** 2

    def encode_some(self, prompts: list[str]) -> Embeddings:
        pipeline, options = self.pipeline, {}
        if pipeline.text_encoder_3 is None:
            encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
            width = sum(encoder.config.hidden_size for encoder in encoders)
            if width == self.network.config.joint_attention_dim:
                options["max_sequence_length"] = 0
        hidden, _, pooled, _ = pipeline.encode_prompt(
            *(prompts, None, None), device=self.device, do_classifier_free_guidance=False, **options
        )
        return {HIDDEN: hidden, POOLED: pooled}

    def evaluate(self, states: Tensor, timestep: Tensor, embeddings: Embeddings) -> Tensor:
        return self.network(
            states,
            timestep=timestep.expand(len(states)),
            encoder_hidden_states=embeddings[HIDDEN],
            pooled_projections=embeddings[POOLED],
            return_dict=False,
        )[0]


load = StableDiffusion3.from_folder
