"""BLIPScore: the cosine of BLIP's contrastive embeddings, as in the image-reward package.

Published weights: ``Salesforce/blip-itm-large-coco`` as it lies on the hub. It is not the
probability of BLIP's matching head, which is a different number.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from transformers import BlipForImageTextRetrieval, PreTrainedTokenizerBase

from rocm_core.rewards.checkpoints import load_model, load_tokenizer
from rocm_core.rewards.frozen import FrozenReward, tokenize
from rocm_core.rewards.preprocessing import Preprocessing

DIFFERENTIABLE = True

MAX_TOKENS = 35


class BlipScore(FrozenReward):
    """cos(image, text) of BLIP's projected first tokens, in [-1, 1]."""

    def __init__(
        self,
        blip: BlipForImageTextRetrieval,
        tokenizer: PreTrainedTokenizerBase,
        preprocessing: Preprocessing,
    ):
        super().__init__(preprocessing)
        self.blip, self.tokenizer = blip, tokenizer

    @classmethod
    def read(cls, folder: Path) -> "BlipScore":
        blip, tokenizer = load_model(BlipForImageTextRetrieval, folder), load_tokenizer(folder)
        return cls(blip, tokenizer, Preprocessing.from_folder(folder))

    def encode_images(self, pixels: Tensor) -> Tensor:
        states = self.blip.vision_model(pixel_values=pixels).last_hidden_state
        return self.blip.vision_proj(states[:, 0])

    def encode_texts(self, prompts: Sequence[str]) -> Tensor:
        length = min(MAX_TOKENS, self.blip.text_encoder.config.max_position_embeddings)
        ids, mask = tokenize(self.tokenizer, prompts, length, self.blip.device)
        states = self.blip.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.blip.text_proj(states[:, 0])


load = BlipScore.load
