"""CLIPScore: the cosine of CLIP's image and text embeddings (Hessel et al. 2021, without its 2.5).

Published weights: ``openai/clip-vit-large-patch14`` as it lies on the hub.
"""

from pathlib import Path

import torch

from rocm_core.rewards.checkpoints import require_folder
from rocm_core.rewards.clip import ClipReward


class ClipScore(ClipReward):
    """cos(image, text), in [-1, 1]."""

    name = "clipscore"


def load(weights: Path | None, device: str | torch.device, dtype: torch.dtype | None) -> ClipScore:
    return ClipScore.read(require_folder(weights, "clipscore")).freeze(device, dtype)
