"""SANA-Sprint's linear transformer, Gemma and deep-compression autoencoder.

Guidance is an embedding. Prompts follow the instruction that the pipeline gives Gemma.
"""

import functools
import inspect
from typing import Any

from torch import Tensor, nn

from rocm_core.policies.denoisers.denoiser import HIDDEN, Block, Embeddings
from rocm_core.policies.denoisers.pipeline import FromPipeline

PIPELINES = ("SanaSprintPipeline",)
MASK = "mask"


class Sana(FromPipeline):
    """`network` is the transformer, which is told the states of Gemma's tokens and their mask."""

    kind = "SanaSprintPipeline"
    parts = {
        "transformer": "SanaTransformer2DModel",
        "vae": "AutoencoderDC",
        "text_encoder": "Gemma2Model",
        "tokenizer": "GemmaTokenizer",
    }
    guided = False

    @functools.cached_property
    def _instruction(self) -> Any:
        """The pipeline's own default."""
        asked = inspect.signature(type(self.pipeline).__call__).parameters
        return asked["complex_human_instruction"].default

    def encode_some(self, prompts: list[str]) -> Embeddings:
        hidden, mask = self.pipeline.encode_prompt(
            prompts, device=self.device, complex_human_instruction=self._instruction
        )
        return {HIDDEN: hidden, MASK: mask}

    def evaluate(self, states: Tensor, timestep: Tensor, embeddings: Embeddings) -> Tensor:
        count, scale = len(states), self.network.config.guidance_embeds_scale
        return self.network(
            states,
            encoder_hidden_states=embeddings[HIDDEN],
            encoder_attention_mask=embeddings[MASK],
            guidance=states.new_full([count], self.guidance_scale) * scale,
            timestep=timestep.expand(count),
            return_dict=False,
        )[0]

    def checkpoint_blocks(self, call: Block | None) -> None:
        """The transformer's by diffusers, which has none for this autoencoder: its by hand."""
        if call is None:
            self.network.disable_gradient_checkpointing()
        else:
            self.network.enable_gradient_checkpointing(call)
        for block in self.vae.decoder.up_blocks:
            vars(block).pop("forward", None)
            if call is not None:
                block.forward = functools.partial(
                    call, functools.partial(nn.Sequential.forward, block)
                )


load = Sana.from_folder
