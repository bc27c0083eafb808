"""From images in [0, 1] to the input of a scorer's network, in two ways.

Training needs operations on tensors, which are differentiable. Most published scorers resize with
PIL: by the same filter as antialiased bicubic interpolation of tensors, one direction after the
other, but rounding to 8 bits after each, so that pixels differ by less than 2/255.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rocm_core.errors import UserError
from rocm_core.rewards.checkpoints import readable

_BICUBIC = 3  # PIL's number of the filter, as preprocessor_config.json has it


@dataclass(frozen=True)
class Preprocessing:
    """Resize to ``size`` × ``size`` pixels, then (x - mean) / std per channel.

    ``fit`` is what happens to an image that is not square: ``crop`` scales the short side and crops
    the middle (CLIP), ``stretch`` ignores the aspect ratio (BLIP), ``pad`` scales the long side and
    fills up with black (HPSv2). ``clip`` cuts the filter's overshoot off, as 8-bit images do
    after each direction; without it the published scorer resizes tensors, too.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Literal["crop", "stretch", "pad"] = "crop"
    clip: bool = True

    def __call__(self, images: Tensor) -> Tensor:
        """(N, 3, size, size) from (N, 3, H, W) in [0, 1]; gradients flow."""
        return self._normalise(self._fit(images, self._interpolate))

    def published(self, images: Tensor) -> Tensor:
        """The same from 8-bit images, resized as the published scorer does; no gradients."""
        return self._normalise(self._fit(images, _by_pil if self.clip else self._interpolate))

    def _normalise(self, images: Tensor) -> Tensor:
        mean = _per_channel(self.mean, images.device, images.dtype)
        return (images - mean) / _per_channel(self.std, images.device, images.dtype)

    def _interpolate(self, images: Tensor, target: tuple[int, int]) -> Tensor:
        across = (images.shape[-2], target[1])
        for size in (across, target) if self.clip else (target,):
            images = nn.functional.interpolate(images, size, mode="bicubic", antialias=True)
            images = images.clamp(0, 1) if self.clip else images
        return images

    def _fit(self, images: Tensor, resize: Callable[[Tensor, tuple[int, int]], Tensor]) -> Tensor:
        height, width = images.shape[-2:]
        if (height, width) == (self.size, self.size):
            return images
        if self.fit == "stretch":
            target = (self.size, self.size)
        elif self.fit == "pad":
            scale = self.size / max(height, width)
            target = (round(height * scale), round(width * scale))
        else:
            short = min(height, width)
            target = (self.size * height // short, self.size * width // short)
        if target != (height, width):
            images = resize(images, target)
        top, left = (self.size - target[0]) // 2, (self.size - target[1]) // 2
        if self.fit == "pad":
            bottom, right = self.size - target[0] - top, self.size - target[1] - left
            return nn.functional.pad(images, (left, right, top, bottom))
        top, left = (target[0] - self.size) // 2, (target[1] - self.size) // 2
        return images[..., top : top + self.size, left : left + self.size]

    @classmethod
    def from_folder(cls, folder: Path) -> "Preprocessing":
        """What a transformers folder's preprocessor_config.json asks for.

        Raises :class:`UserError` where the file is absent or asks for something else.
        """
        path = folder / "preprocessor_config.json"
        with readable(f"{path} is absent or damaged"):
            config = json.loads(path.read_text(encoding="utf-8"))
            size = config["size"]
            mean, std = tuple(config["image_mean"]), tuple(config["image_std"])
        if isinstance(size, int):
            size = {"shortest_edge": size}
        sides = set(size.values())
        if len(sides) != 1 or config.get("resample", _BICUBIC) != _BICUBIC:
            raise UserError(f"{path} asks for more than a bicubic resize to a square; correct it")
        return cls(sides.pop(), mean, std, "crop" if "shortest_edge" in size else "stretch")

    def save(self, folder: Path) -> None:
        """Write the preprocessor_config.json that :meth:`from_folder` reads."""
        square = {"shortest_edge": self.size}
        if self.fit == "stretch":
            square = {"height": self.size, "width": self.size}
        config = {
            "size": square,
            "resample": _BICUBIC,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
        (folder / "preprocessor_config.json").write_text(
            json.dumps(config, indent=2) + "\n", encoding="utf-8"
        )


def pictures_of(images: Tensor) -> list[Image.Image]:
    """Images (N, 3, H, W) in [0, 1] as pictures of 8 bits per channel."""
    pixels = (images.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return [Image.fromarray(pixel) for pixel in pixels.permute(0, 2, 3, 1).contiguous().numpy()]


def _by_pil(images: Tensor, target: tuple[int, int]) -> Tensor:
    size, filter = target[::-1], Image.Resampling.BICUBIC
    resized = [np.asarray(picture.resize(size, filter)) for picture in pictures_of(images)]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(images) / 255


@cache
def _per_channel(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, device=device, dtype=dtype)[:, None, None]
