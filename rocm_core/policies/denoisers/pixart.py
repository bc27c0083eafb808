"""PixArt-α's transformer, T5 and autoencoder; PixArt-LCM is its consistency model.

Its pipeline loads no LoRA, so that files of adapters have the names of peft's own. Captions are
lower-cased; links and the like are not taken out of them, for which the pipeline needs packages
that nobody else does.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from rocm_core.policies.denoisers.denoiser import HIDDEN, Embeddings
from rocm_core.policies.denoisers.parts import PEFT
from rocm_core.policies.denoisers.pipeline import FromPipeline

PIPELINES = ("PixArtAlphaPipeline",)
MASK = "mask"
_MICRO_CONDITIONS = 128  # sample_size of the models that are told the image's size


class PixArt(FromPipeline):
    """`network` is the transformer, which is told the states of T5's tokens and their mask."""

    kind = "PixArtAlphaPipeline"
    parts = {
        "transformer": "PixArtTransformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "T5EncoderModel",
        "tokenizer": "T5Tokenizer",
    }
    lora_prefix = PEFT.removesuffix(".")

    @classmethod
    def load_parts(cls, folder: Path) -> dict[str, Any]:
        """The pipeline's parts; of diffusers' transformers this is the one to which no adapter can
        be added."""
        from diffusers.loaders import PeftAdapterMixin

        parts = super().load_parts(folder)
        own = type(parts["transformer"])
        parts["transformer"].__class__ = type(own.__name__, (own, PeftAdapterMixin), {})
        return parts

    def encode_some(self, prompts: list[str]) -> Embeddings:
        hidden, mask, *_ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=self.device
        )
        return {HIDDEN: hidden, MASK: mask}

    def evaluate(self, states: Tensor, timestep: Tensor, embeddings: Embeddings) -> Tensor:
        count = len(states)
        told: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.network.config.sample_size == _MICRO_CONDITIONS:
            size = states.new_tensor([[self.resolution, self.resolution]])
            told = {"resolution": size.expand(count, -1), "aspect_ratio": states.new_ones(count, 1)}
        output = self.network(
            states,
            encoder_hidden_states=embeddings[HIDDEN],
            encoder_attention_mask=embeddings[MASK],
            timestep=timestep.expand(count),
            added_cond_kwargs=told,
            return_dict=False,
        )[0]
        return output[:, : self.latent_shape[0]]  # without the variance that it may have learned


load = PixArt.from_folder
