"""What a policy asks of the networks of a diffusers pipeline.

A module `denoisers/<name>.py` with the literal `PIPELINES`, the classes of a model_index.json that
it is for, and a function `load(folder, guidance_scale, device, dtype, lora) -> Denoiser` is a
denoiser; which one a model gets is read from its model_index.json.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rocm_core.errors import UserError

HALF = (torch.bfloat16, torch.float16)
Block = Callable[..., Any]  # calls a block of a network with what it is given
# What a network is told of N prompts, by name: (N, …) each. Always among it is `HIDDEN`, the states
# (N, L, D) of their L tokens.
Embeddings = Mapping[str, Tensor]
HIDDEN = "hidden_states"


class Denoiser(nn.Module, ABC):
    """Frozen networks in evaluation mode; only an adapter added to `network` can be trained.

    network_name: the network's folder. lora_prefix: what the names of its layers begin with in a
    file of LoRA weights, for the loader of its pipeline; None: its folder.
    passes: evaluations of the network per image and prediction, 2 for classifier-free guidance by
    `guidance_scale`; the embeddings of no prompt are then its buffers `without_<name>`.
    dtype: of the networks; latents and predictions are never below float32. Where it is lower, the
    network is also called with the pairs of `compensation`, by torch's functions and nothing else.
    """

    network_name: ClassVar[str]
    lora_prefix: ClassVar[str | None] = None
    network: nn.Module
    vae: Any  # diffusers' autoencoder
    guidance_scale: float
    passes: int
    latent_shape: tuple[int, int, int]  # (C, h, w), at first of the size that the model is made for
    pixels_per_latent: int | None = None  # along each side; None: images have one size only
    patch: int = 1  # latents along each side that the network reads at once

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.device, self.dtype = device, dtype

    @property
    def resolution(self) -> int | None:
        """Width and height of its images; None where it does not say."""
        scale = self.pixels_per_latent
        return None if scale is None else scale * self.latent_shape[1]

    @resolution.setter
    def resolution(self, pixels: int) -> None:
        scale = self.pixels_per_latent
        if scale is None or pixels % (scale * self.patch):
            allowed = "left out" if scale is None else f"a multiple of {scale * self.patch}"
            raise UserError(f"resolution must be {allowed} for this model, not {pixels}")
        self.latent_shape = self.latent_shape[0], pixels // scale, pixels // scale

    @property
    def lora_name(self) -> str:
        """What the names of the network's layers begin with in a file of LoRA weights."""
        return self.lora_prefix or self.network_name

    @property
    def tokens(self) -> int | None:
        """The number of an image's tokens, where the model's noise depends on it; else None."""
        return None

    def sigmas(self, steps: int) -> tuple[float, ...] | None:
        """The noise levels at which its pipeline asks a scheduler for K steps; None: for K."""
        return None

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Embeddings:
        """The prompts' embeddings, without gradient; too long a prompt is cut off."""

    @abstractmethod
    def forget_text(self) -> None:
        """Free what only `encode` needs."""

    @abstractmethod
    def evaluate(self, states: Tensor, timestep: Tensor, embeddings: Embeddings) -> Tensor:
        """The network's output for states of its precision at `timestep`, ()."""

    def predict(self, state: Tensor, timestep: Tensor, embeddings: Embeddings) -> Tensor:
        """The network's output `(N, C, h, w)` for the state `(N, C, h, w)` at `timestep`, (), under
        the prompts' embeddings, in the precision of the state; with classifier-free guidance,
        without + ω (conditional - without) from one batch of both."""
        states = state.to(self.dtype)
        if self.passes == 2:
            states = torch.cat([states, states])
            embeddings = {
                name: torch.cat([getattr(self, f"without_{name}").expand_as(part), part])
                for name, part in embeddings.items()
            }
        with self.autocast():
            output = self.evaluate(states, timestep, embeddings).to(state.dtype)
        if self.passes == 1:
            return output
        without, conditional = output.chunk(2)
        return without + self.guidance_scale * (conditional - without)

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(N, 3, H, W)` in [0, 1], differentiable except where a pixel is clipped."""
        # An autoencoder that is kept in float32 would compute in half precision under autocast.
        with self.autocast() if self.vae.dtype in HALF else contextlib.nullcontext():
            unscaled = self.unscale(latents).to(self.vae.dtype)
            images = self.vae.decode(unscaled, return_dict=False)[0]
        return (images.to(latents.dtype) / 2 + 0.5).clamp(0, 1)

    def unscale(self, latents: Tensor) -> Tensor:
        """What the autoencoder decodes, of what the network works on."""
        config = self.vae.config
        return latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0)

    def checkpoint_blocks(self, call: Block | None) -> None:
        """Run each block of the network and of the decoder through `call`; None: as they are.

        This is diffusers' own gradient checkpointing.
        """
        networks: tuple[Any, ...] = (self.network, self.vae)
        for network in networks:
            if call is None:
                network.disable_gradient_checkpointing()
            else:
                network.enable_gradient_checkpointing(call)

    def autocast(self) -> torch.autocast:
        """Autocast to the networks' dtype where that is below float32: adapters stay float32."""
        low = self.dtype in HALF
        return torch.autocast(self.device.type, dtype=self.dtype if low else None, enabled=low)
