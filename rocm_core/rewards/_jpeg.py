"""The size of an image as a JPEG, which JPEG (in)compressibility rewards."""

import io

import torch
from torch import Tensor

from rocm_core.rewards.preprocessing import pictures_of

QUALITY = 95


def kilobytes(images: Tensor) -> Tensor:
    """(N,) size in units of 1000 bytes of images (N, 3, H, W) in [0, 1] as files of 8-bit RGB."""
    sizes = []
    for picture in pictures_of(images):
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=QUALITY)
        sizes.append(file.tell() / 1000)
    return torch.tensor(sizes, dtype=torch.float32, device=images.device)
