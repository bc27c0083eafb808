"""PickScore: exp(logit scale) · cosine of a CLIP fine-tuned on users' choices (Kirstain 2023).

Published weights: ``yuvalkirstain/PickScore_v1``, beside the tokenizer and the preprocessor of
``laion/CLIP-ViT-H-14-laion2B-s32B-b79K``. About 20 to 23.
"""

from torch import Tensor

from rocm_core.rewards.clip import ClipReward

DIFFERENTIABLE = True


class PickScore(ClipReward):
    """exp(logit scale) · cos(image, text)."""

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        cosines = super().compare(images, texts)
        return self.clip.logit_scale.to(cosines.dtype).exp() * cosines


load = PickScore.load
