"""What the learned scorers share: a frozen network; text features computed once per prompt; and the
regression head of LAION's aesthetic predictor, which ImageReward shares."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rocm_core.plugins import short_name
from rocm_core.rewards.checkpoints import fill, read_tensors, readable, require_folder
from rocm_core.rewards.loading import Reward
from rocm_core.rewards.preprocessing import Preprocessing

HIDDEN = (1024, 128, 64, 16)
_LINEAR = (0, 2, 4, 6, 7)  # positions in the published stack; dropout lies between the first ones


class FrozenReward(nn.Module, Reward):
    """A scorer of the form compare(image features, text features).

    :meth:`score` differentiates with respect to the images only and never encodes a prompt twice;
    the three parts carry gradients to the weights as well, for training a scorer.
    """

    differentiable = True

    def __init__(self, preprocessing: Preprocessing):
        super().__init__()
        self.preprocessing = preprocessing
        self._texts: dict[str, Tensor] = {}

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Features (N, …) of preprocessed images (N, 3, size, size)."""

    @abstractmethod
    def encode_texts(self, prompts: Sequence[str]) -> Tensor:
        """Features (N, …) of prompts, cut at the scorer's token limit."""

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        """Scores (N,) of image features, each with its own text features: by default the cosine."""
        return cosine(images, texts)

    @classmethod
    @abstractmethod
    def read(cls, folder: Path) -> Self:
        """The scorer with the weights in ``folder``; raises :class:`UserError`."""

    @classmethod
    def load(
        cls, weights: Path | None, device: str | torch.device, dtype: torch.dtype | None
    ) -> Self:
        """The frozen scorer of the folder ``weights``, named after its module, as a plug-in's
        ``load``; raises :class:`UserError` for a folder that is absent or damaged."""
        return cls.read(require_folder(weights, short_name(cls.__module__))).freeze(device, dtype)

    def freeze(self, device: str | torch.device, dtype: torch.dtype | None) -> Self:
        """In evaluation mode, without gradients to the weights, on a device in a precision."""
        self.requires_grad_(False)
        return self.to(device, dtype or torch.float32).eval()

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,) of images (N, 3, H, W) in [0, 1], each for its own prompt."""
        return self._score(images, prompts, self.preprocessing)

    @torch.no_grad()
    def measure(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """:meth:`score` without gradients, images resized as the published scorer does."""
        return self._score(images, prompts, self.preprocessing.published)

    def _score(
        self, images: Tensor, prompts: Sequence[str], preprocess: Callable[[Tensor], Tensor]
    ) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or len(images) != len(prompts):
            raise ValueError(f"{tuple(images.shape)} images do not match {len(prompts)} prompts")
        parameter = next(self.parameters())
        pixels = images.to(parameter.device, torch.promote_types(images.dtype, torch.float32))
        pixels = preprocess(pixels).to(parameter.dtype)
        scores = self.compare(self.encode_images(pixels), self._cached_texts(prompts))
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def _cached_texts(self, prompts: Sequence[str]) -> Tensor:
        # One by one: features differ in their last bits with the batch that they are encoded in,
        # and a resumed training meets other new prompts together than the first attempt did.
        with torch.no_grad():
            for prompt in prompts:
                if prompt not in self._texts:
                    (self._texts[prompt],) = self.encode_texts([prompt])
        return torch.stack([self._texts[prompt] for prompt in prompts])


class ScoreHead(nn.Module):
    """Linear layers ``width`` → ``hidden`` → 1 with dropout and no activations between them."""

    def __init__(self, width: int, hidden: tuple[int, ...] = HIDDEN):
        super().__init__()
        sizes = (width, *hidden, 1)
        linear = [nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
        rates = (nn.Dropout(0.2), nn.Dropout(0.2), nn.Dropout(0.1))
        self.layers = nn.Sequential(
            linear[0], rates[0], linear[1], rates[1], linear[2], rates[2], linear[3], linear[4]
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N,) from (N, width)."""
        return self.layers(features).squeeze(-1)

    @classmethod
    def read(cls, path: Path) -> "ScoreHead":
        """The head in a weights file, of the widths found there."""
        return cls.of(read_tensors(path), path)

    @classmethod
    def of(cls, tensors: dict[str, Tensor], path: Path) -> "ScoreHead":
        """The head of tensors layers.0 … layers.7, read from ``path``."""
        with readable(f"{path} holds no aesthetic head, which is layers.0 … layers.7"):
            widths = [tensors[f"layers.{i}.weight"].shape for i in _LINEAR]
        head = cls(widths[0][1], tuple(width[0] for width in widths[:-1]))
        fill(head, tensors, path)
        return head


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine (N,) of paired features (N, D), in float32 or better."""
    wide = torch.promote_types(first.dtype, torch.float32)
    return (
        nn.functional.normalize(first.to(wide), dim=-1)
        * nn.functional.normalize(second.to(wide), dim=-1)
    ).sum(-1)


def tokenize(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], length: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask (N, length), cut or padded to ``length`` tokens."""
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        truncation=True,
        max_length=length,
        return_tensors="pt",
    )
    return tokens.input_ids.to(device), tokens.attention_mask.to(device)
