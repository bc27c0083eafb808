"""ImageReward: BLIP's text encoder looks at the image, a linear head scores it (Xu et al. 2023).

A folder holds the published ``ImageReward.pt`` and ``med_config.json``, with BERT's tokenizer in
tokenizer/, or a transformers BlipForImageTextRetrieval and ``head.safetensors``. Scores are
standardised, so that 0 is the mean and 1 the standard deviation of the published training set.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from transformers import BlipForImageTextRetrieval, PreTrainedTokenizerBase

from rocm_core.errors import UserError
from rocm_core.rewards.checkpoints import load_model, load_tokenizer
from rocm_core.rewards.frozen import FrozenReward, tokenize
from rocm_core.rewards.head import ScoreHead
from rocm_core.rewards.med import Blip, read_published
from rocm_core.rewards.preprocessing import Preprocessing

DIFFERENTIABLE = True

MAX_TOKENS = 35
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the published head's raw scores


class ImageReward(FrozenReward):
    """(head(first text token after cross-attention to the image) - MEAN) / STD."""

    def __init__(
        self,
        blip: BlipForImageTextRetrieval | Blip,
        head: ScoreHead,
        tokenizer: PreTrainedTokenizerBase,
        preprocessing: Preprocessing,
    ):
        super().__init__(preprocessing)
        self.blip, self.head, self.tokenizer = blip, head, tokenizer

    @classmethod
    def read(cls, folder: Path) -> "ImageReward":
        blip: BlipForImageTextRetrieval | Blip
        if (folder / "ImageReward.pt").is_file():
            blip, head = read_published(folder)
            size = blip.vision_model.config.image_size
            preprocessing = Preprocessing(size, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, "crop")
        else:
            head = ScoreHead.read(folder / "head.safetensors")
            blip = load_model(BlipForImageTextRetrieval, folder)
            if not blip.text_encoder.config.is_decoder:
                raise UserError(
                    f"{folder}/config.json makes a text encoder without cross-attention;"
                    " set text_config.is_decoder to true"
                )
            preprocessing = Preprocessing.from_folder(folder)
        return cls(blip, head, load_tokenizer(folder), preprocessing)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.blip.vision_model(pixel_values=pixels).last_hidden_state

    def encode_texts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Token ids and mask (N, 2, tokens): the encoder reads them beside the image."""
        length = min(MAX_TOKENS, self.blip.text_encoder.config.max_position_embeddings)
        device = self.blip.text_encoder.device
        return torch.stack(tokenize(self.tokenizer, prompts, length, device), 1)

    def compare(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        states = self.blip.text_encoder(
            input_ids=texts[:, 0],
            attention_mask=texts[:, 1],
            encoder_hidden_states=images,
            encoder_attention_mask=torch.ones(images.shape[:2], device=images.device).long(),
        ).last_hidden_state
        return (self.head(states[:, 0]) - MEAN) / STD


load = ImageReward.load
