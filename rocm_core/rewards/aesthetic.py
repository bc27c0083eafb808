"""LAION's aesthetic predictor: CLIP's normalised image embedding through a stack of linear layers.

Published weights: ``openai/clip-vit-large-patch14`` and, in the same folder, the head
``sac+logos+ava1-l14-linearMSE.pth``. About 1 to 10; the prompt plays no part.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from rocm_core.errors import UserError
from rocm_core.rewards.checkpoints import load_model
from rocm_core.rewards.frozen import FrozenReward, ScoreHead
from rocm_core.rewards.preprocessing import Preprocessing

DIFFERENTIABLE = True

_TEXT_WEIGHTS = ("text_model.", "text_projection.", "logit_scale")


class Aesthetic(FrozenReward):
    """head(image embedding / ‖image embedding‖)."""

    def __init__(
        self, clip: CLIPVisionModelWithProjection, head: ScoreHead, preprocessing: Preprocessing
    ):
        super().__init__(preprocessing)
        self.clip, self.head = clip, head

    @classmethod
    def read(cls, folder: Path) -> "Aesthetic":
        heads = [*folder.glob("head.safetensors"), *folder.glob("*.pth")]
        if len(heads) != 1:
            raise UserError(
                f"{folder} must hold one head (head.safetensors or a .pth file); fetch it"
            )
        head = ScoreHead.read(heads[0])
        clip = load_model(CLIPVisionModelWithProjection, folder, unused=_TEXT_WEIGHTS)
        width, expected = clip.config.projection_dim, head.layers[0].in_features
        if width != expected:
            raise UserError(
                f"{heads[0]} takes embeddings of {expected} numbers, the CLIP beside it"
                f" makes {width}; fetch the two that belong together"
            )
        return cls(clip, head, Preprocessing.from_folder(folder))

    def encode_images(self, pixels: Tensor) -> Tensor:
        return nn.functional.normalize(self.clip(pixel_values=pixels).image_embeds, dim=-1)

    def encode_texts(self, prompts: Sequence[str]) -> Tensor:
        return torch.empty(len(prompts), 0)

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        return self.head(images)


load = Aesthetic.load
