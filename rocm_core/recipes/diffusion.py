"""Train the shapes world's diffusion base: ``python -m rocm_core.recipes.diffusion``.

Noise prediction with min-SNR weighting (Hang et al. 2023, γ = 5), captions dropped for one image in
ten (classifier-free guidance), the text encoder trained jointly, a moving average of both. An
interrupted run resumes from ``state.pt`` in the output folder.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTokenizer

from rocm_core.recipes.steps import follow, load_state, restore, run_recipe, save_state, take_step
from rocm_core.shapes.models import (
    alphas_cumprod,
    make_text_encoder,
    make_unet,
    save_half,
    tokenize,
)
from rocm_core.shapes.scenes import TRAINING_PAIR_SHARE, describe, render, training_scenes

CAPTION_DROPOUT = 0.1
MIN_SNR_GAMMA = 5.0
EMA_DECAY = 0.999


@torch.no_grad()
def encode_world(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, images: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Latents (images, 8, 8, 8) of random scenes and their tokens (images, length)."""
    generator = torch.Generator().manual_seed(seed)
    latents, tokens = [], []
    for _ in range(-(-images // 1000)):
        scenes = training_scenes(1000, generator, TRAINING_PAIR_SHARE)
        posterior = vae.encode(render(scenes, generator) * 2 - 1).latent_dist
        latents.append(posterior.sample(generator))
        tokens.append(tokenize(tokenizer, describe(scenes)))
    return torch.cat(latents)[:images], torch.cat(tokens)[:images]


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
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    state: Path,
    cycles: Sequence[int],
    batch_size: int,
    images: int,
    learning_rate: float = 1e-3,
) -> Denoiser:
    """The moving average of a denoiser after one-cycle schedules of the given numbers of steps.

    Every cycle starts from the average with which the previous one ended. Resumes from ``state``.
    """
    torch.manual_seed(0)
    average = Denoiser(tokenizer)
    saved = load_state(state)
    latents, tokens = encode_world(vae, tokenizer, images, seed=1)
    empty = tokenize(tokenizer, [""])
    for cycle, steps in enumerate(cycles):
        if saved and cycle < saved["cycle"]:
            continue
        model = copy.deepcopy(average)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, weight_decay=1e-4, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, learning_rate, total_steps=steps, pct_start=0.05
        )
        kept: dict[str, Any] = {
            "model": model,
            "average": average,
            "optimizer": optimizer,
            "schedule": schedule,
        }
        start = 0
        if saved:
            restore(kept, saved)
            start, saved = saved["step"], None
        name = f"diffusion, cycle {cycle + 1}"
        for step in tqdm(range(start, steps), desc=name, initial=start, disable=None):
            g = torch.Generator().manual_seed(1000 + sum(cycles[:cycle]) + step)
            index = torch.randint(len(latents), (batch_size,), generator=g)
            dropped = torch.rand(batch_size, 1, generator=g) < CAPTION_DROPOUT
            batch_tokens = torch.where(dropped, empty, tokens[index])
            loss = denoising_loss(model, latents[index], batch_tokens, g)
            take_step(loss, optimizer, schedule)
            follow(average, model, min(EMA_DECAY, (1 + step) / (10 + step)))
            if (step + 1) % 200 == 0 or step + 1 == steps:
                print(f"{name}, step {step + 1}: loss {loss.item():.4f}", flush=True)
                save_state(state, kept, cycle=cycle, step=step + 1)
    return average


def main(
    vae: Path,
    tokenizer: Path,
    output: Path,
    cycles: tuple[int, ...] = (4200, 6000),
    batch_size: int = 64,
    images: int = 60_000,
) -> None:
    """output: gets unet/ and text_encoder/. cycles: steps of each."""
    output.mkdir(parents=True, exist_ok=True)
    autoencoder = AutoencoderKL.from_pretrained(vae, torch_dtype=torch.float32)
    autoencoder.requires_grad_(False)
    state, words = output / "state.pt", CLIPTokenizer.from_pretrained(tokenizer)
    model = train(autoencoder, words, state, cycles, batch_size, images)
    save_half(model.unet, output / "unet")
    save_half(model.text_encoder, output / "text_encoder")
    state.unlink()


if __name__ == "__main__":
    run_recipe(main)
