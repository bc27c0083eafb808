"""Train the shapes world's diffusion base: ``python -m rocm_core.recipes.diffusion``.

Noise prediction with min-SNR weighting (Hang et al. 2023, γ = 5) on the latents of renderings of
mixed quality, encoded once; captions dropped for one image in ten (classifier-free guidance), the
text encoder trained jointly, a moving average of both.
"""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTokenizer

from rocm_core.recipes.degradations import render_mixed
from rocm_core.recipes.steps import follow, kept, learn, run_recipe
from rocm_core.shapes.models import (
    alphas_cumprod,
    make_text_encoder,
    make_unet,
    save_half,
    tokenize,
)
from rocm_core.shapes.scenes import TRAINING_PAIR_SHARE, describe, training_scenes

CAPTION_DROPOUT = 0.1
MIN_SNR_GAMMA = 5.0
EMA_DECAY = 0.9985
WARMUP_STEPS = 100
COOLDOWN = 0.2  # share of the steps

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def encode_world(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, images: int, seed: int
) -> dict[str, Tensor]:
    """``latents`` (images, 8, 8, 8) of random scenes and their ``tokens`` (images, length)."""
    generator = torch.Generator().manual_seed(seed)
    latents, tokens = [], []
    for start in range(0, images, 500):
        scenes = training_scenes(min(500, images - start), generator, TRAINING_PAIR_SHARE)
        posterior = vae.encode(render_mixed(scenes, generator) * 2 - 1).latent_dist
        latents.append(posterior.sample(generator))
        tokens.append(tokenize(tokenizer, describe(scenes)))
    return {"latents": torch.cat(latents), "tokens": torch.cat(tokens)}


class Denoiser(nn.Module):
    """The U-Net and its text encoder as one trainable module."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = make_unet(guidance_embedding=False).to(memory_format=torch.channels_last)
        self.text_encoder = make_text_encoder(tokenizer)

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        embeddings = self.text_encoder(tokens).last_hidden_state
        return self.unet(noisy, timesteps, encoder_hidden_states=embeddings).sample


def denoising_loss(model: nn.Module, latents: Tensor, tokens: Tensor, g: torch.Generator) -> Tensor:
    """Min-SNR weighted squared error of the predicted noise at random timesteps."""
    alphas = alphas_cumprod()
    timesteps = torch.randint(len(alphas), (len(latents),), generator=g)
    alpha = alphas[timesteps][:, None, None, None]
    noise = torch.randn(latents.shape, generator=g)
    prediction = model(alpha.sqrt() * latents + (1 - alpha).sqrt() * noise, timesteps, tokens)
    snr = (alpha / (1 - alpha)).flatten()
    weight = snr.clamp_max(MIN_SNR_GAMMA) / snr
    return (weight * ((prediction - noise) ** 2).mean((1, 2, 3))).mean()


def train(
    make: Callable[[CLIPTokenizer], Model],
    objective: Callable[[Model, Tensor, Tensor, torch.Generator], Tensor],
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    state: Path,
    steps: int,
    batch_size: int,
    images: int,
    learning_rate: float = 6e-4,
) -> Model:
    """The moving average of what ``make`` makes after ``steps``; goes on from ``state``.

    objective: of the model, latents, tokens and a generator. The learning rate is constant between
    a warm-up and a linear decay to 0 (Hu et al. 2024).
    """
    torch.manual_seed(0)
    data = kept(state / "latents.pt", lambda: encode_world(vae, tokenizer, images, seed=1))
    latents, tokens, empty = data["latents"], data["tokens"], tokenize(tokenizer, [""])
    model = make(tokenizer)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=1e-4, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / WARMUP_STEPS, (steps - step) / (COOLDOWN * steps)),
    )

    def loss(g: torch.Generator) -> Tensor:
        index = torch.randint(len(latents), (batch_size,), generator=g)
        dropped = torch.rand(batch_size, 1, generator=g) < CAPTION_DROPOUT
        return objective(model, latents[index], torch.where(dropped, empty, tokens[index]), g)

    def after(step: int) -> None:
        follow(average, model, min(EMA_DECAY, (1 + step) / (10 + step)))

    parts = {"model": model, "average": average, "optimizer": optimizer, "schedule": schedule}
    learn(state.name, state, parts, steps, 1000, loss, after)
    return average


def main(
    vae: Path,
    tokenizer: Path,
    output: Path,
    state: Path,
    steps: int = 16_000,
    batch_size: int = 32,
    images: int = 30_000,
) -> None:
    """output: gets unet/ and text_encoder/. state: folder of an interrupted run to go on from."""
    autoencoder = AutoencoderKL.from_pretrained(vae, torch_dtype=torch.float32)
    autoencoder.requires_grad_(False)
    words = CLIPTokenizer.from_pretrained(tokenizer)
    model = train(Denoiser, denoising_loss, autoencoder, words, state, steps, batch_size, images)
    save_half(model.unet, output / "unet")
    save_half(model.text_encoder, output / "text_encoder")
    shutil.rmtree(state)


if __name__ == "__main__":
    run_recipe(main)
