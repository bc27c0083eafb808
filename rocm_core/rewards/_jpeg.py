"""The size of an image as a JPEG, which JPEG (in)compressibility rewards."""

import io

import torch
from PIL import Image
from torch import Tensor

QUALITY = 95


def kilobytes(images: Tensor) -> Tensor:
    """(N,) size in units of 1000 bytes of images (N, 3, H, W) in [0, 1] as files of 8-bit RGB."""
    pixels = (images.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    sizes = []
    for image in pixels.permute(0, 2, 3, 1).contiguous().numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="JPEG", quality=QUALITY)
        sizes.append(file.tell() / 1000)
    return torch.tensor(sizes, dtype=torch.float32, device=images.device)
