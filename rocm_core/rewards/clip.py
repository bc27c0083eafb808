"""A transformers CLIPModel as an encoder of images and prompts, for the scorers built on one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from torch import Tensor
from transformers import CLIPModel, PreTrainedTokenizerBase

from rocm_core.rewards.checkpoints import load_model, load_tokenizer
from rocm_core.rewards.frozen import FrozenReward, tokenize
from rocm_core.rewards.preprocessing import Preprocessing


class ClipReward(FrozenReward):
    """cos(image, text) of a CLIPModel's projected embeddings."""

    def __init__(
        self, clip: CLIPModel, tokenizer: PreTrainedTokenizerBase, preprocessing: Preprocessing
    ):
        super().__init__(preprocessing)
        self.clip, self.tokenizer = clip, tokenizer

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The scorer of a folder as transformers saves a CLIPModel, its tokenizer and processor."""
        clip, tokenizer = load_model(CLIPModel, folder), load_tokenizer(folder)
        return cls(clip, tokenizer, Preprocessing.from_folder(folder))

    def encode_images(self, pixels: Tensor) -> Tensor:
        return self.clip.get_image_features(pixel_values=pixels).pooler_output

    def encode_texts(self, prompts: Sequence[str]) -> Tensor:
        length = self.clip.text_model.config.max_position_embeddings
        ids, mask = tokenize(self.tokenizer, prompts, length, self.clip.device)
        return self.clip.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
