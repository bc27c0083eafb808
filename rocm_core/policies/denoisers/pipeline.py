"""Denoisers whose prompts are encoded by their diffusers pipeline's own function.

Which of a pipeline's functions can be called with gradients, is called; what its `__call__` does in
the loop is in `evaluate` of each denoiser.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from rocm_core.policies.denoisers.denoiser import Denoiser, Embeddings
from rocm_core.policies.denoisers.parts import load_parts, merge_into
from rocm_core.policies.denoisers.words import Words

_AT_ONCE = 16  # prompts encoded together: text encoders can have billions of weights


class FromPipeline(Denoiser):
    """The networks of a diffusers pipeline.

    kind: its class. parts: their classes, by folder. guided: a guidance scale above 1 takes a
    second pass, without the prompt.
    """

    kind: ClassVar[str]
    parts: ClassVar[Mapping[str, str]]
    network_name = "transformer"
    network: Any
    guided: bool = True

    def __init__(
        self, pipeline: Any, guidance_scale: float, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(device, dtype)
        self.pipeline, self.guidance_scale = pipeline, guidance_scale
        self._words = Words(getattr(pipeline, "tokenizer", None))
        self.network, self.vae = getattr(pipeline, self.network_name), pipeline.vae
        encoders = (getattr(pipeline, name, None) for name in self._encoders)
        self.encoders = nn.ModuleList(encoder for encoder in encoders if encoder is not None)
        self.requires_grad_(False).eval().to(device, dtype)
        self.passes = 2 if self.guided and guidance_scale > 1 else 1
        config = self.network.config
        self.pixels_per_latent = pipeline.vae_scale_factor
        self.patch, self.latent_shape = getattr(config, "patch_size", 1), self.shape()
        for name, value in (self.unconditional() if self.passes == 2 else {}).items():
            self.register_buffer(f"without_{name}", value, persistent=False)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        guidance_scale: float,
        device: torch.device,
        dtype: torch.dtype,
        lora: str | None,
        **options: Any,
    ) -> Self:
        """What `load` of each module does; `options` are further ones of the pipeline's class.

        Raises `UserError` for a part that is missing or cannot be read, and for a LoRA that does
        not fit.
        """
        import diffusers

        parts, kind = cls.load_parts(folder), getattr(diffusers, cls.kind)
        if lora is not None:
            merge_into(parts[cls.network_name], cls.network_name, Path(lora), kind)
        pipeline = kind(**parts, scheduler=None, **options)
        return cls(pipeline, guidance_scale, device, dtype)

    @classmethod
    def load_parts(cls, folder: Path) -> dict[str, Any]:
        """The pipeline's parts, by folder."""
        return load_parts(folder, cls.parts)

    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents that the model is made for."""
        config = self.network.config
        return config.in_channels, config.sample_size, config.sample_size

    @property
    def _encoders(self) -> list[str]:
        return [part for part in self.parts if part.startswith("text_encoder")]

    @abstractmethod
    def encode_some(self, prompts: list[str]) -> Embeddings:
        """The embeddings of a few prompts, by the pipeline's own function."""

    def unconditional(self) -> Embeddings:
        """The embeddings of no prompt, for guidance in two passes."""
        return self.encode([""])

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Embeddings:
        """The prompts' embeddings, without gradient; too long a prompt is cut off. Warns of words
        that the embedded world's captions do not have."""
        if not len(self.encoders):
            raise ValueError("the text encoders were dropped")
        self._words.warn_of_unknown(prompts)
        starts = range(0, len(prompts), _AT_ONCE)
        parts = [self.encode_some([*prompts[start : start + _AT_ONCE]]) for start in starts]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def forget_text(self) -> None:
        """Drop the text encoders."""
        self.encoders = nn.ModuleList()
        for name in self._encoders:
            setattr(self.pipeline, name, None)
