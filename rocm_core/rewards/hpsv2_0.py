"""HPSv2 in its first version, v2.0, reported beside v2.1, whose scores are 2 to 3 points lower.

The same scorer with the weights ``HPS_v2_compressed.pt``.
"""

from pathlib import Path

import torch

from rocm_core.rewards import hpsv2

DIFFERENTIABLE = True


class HPSv2_0(hpsv2.HPSv2):
    """cos(image, text) of an OpenCLIP model, in [-1, 1]."""

    name = "hpsv2_0"


def load(weights: Path | None, device: str | torch.device, dtype: torch.dtype | None) -> HPSv2_0:
    scorer = hpsv2.load(weights, device, dtype)
    return HPSv2_0(scorer.clip, scorer.tokenizer, scorer.preprocessing).freeze(device, dtype)
