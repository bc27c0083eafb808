"""CLIPScore as papers on text-to-image models report it: the cosine of CLIP's embeddings.

Published weights: ``openai/clip-vit-large-patch14`` as it lies on the hub. The metric of that name
(Hessel et al. 2021) is ``clipscore_hessel``.
"""

from rocm_core.rewards.clip import ClipReward

DIFFERENTIABLE = True


class ClipScore(ClipReward):
    """cos(image, text), in [-1, 1]."""


load = ClipScore.load
