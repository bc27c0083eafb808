"""CLIPScore as Hessel et al. 2021 define it (arXiv 2104.08718, equation 1): 2.5 · max(cos, 0).

Published weights: ``openai/clip-vit-base-patch32``. Their code puts "A photo depicts" before each
text. Papers on text-to-image models use the name for ``clipscore``.
"""

from collections.abc import Sequence

from torch import Tensor

from rocm_core.rewards.clip import ClipReward

DIFFERENTIABLE = True

PREFIX = "A photo depicts "


class HesselClipScore(ClipReward):
    """2.5 · max(cos(image, "A photo depicts " + text), 0), in [0, 2.5]."""

    def encode_texts(self, prompts: Sequence[str]) -> Tensor:
        return super().encode_texts([PREFIX + prompt for prompt in prompts])

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        return 2.5 * super().compare(images, texts).clamp_min(0)


load = HesselClipScore.load
