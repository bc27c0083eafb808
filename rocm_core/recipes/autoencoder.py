"""Train the shapes world's autoencoder: ``python -m rocm_core.recipes.autoencoder``.

A KL weight of 1e-4 keeps all latent channels alive (2e-3 collapsed most of four). Afterwards
the mean and standard deviation per latent channel are folded into ``quant_conv`` and
``post_quant_conv``, so that ``scaling_factor`` is 1 and every channel has mean 0 and standard
deviation 1.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from rocm_core.recipes.steps import run_recipe, take_step
from rocm_core.shapes.models import make_autoencoder, save_half
from rocm_core.shapes.scenes import render, training_scenes

KL_WEIGHT = 1e-4


def train(steps: int, batch_size: int, images: int, learning_rate: float = 3e-3) -> AutoencoderKL:
    """An autoencoder trained on clean renders."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    parts = [render(training_scenes(1000, generator), generator) for _ in range(0, images, 1000)]
    data = torch.cat(parts)[:images] * 2 - 1  # in [-1, 1]
    model = make_autoencoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.08
    )
    for step in tqdm(range(steps), desc="autoencoder", disable=None):
        x = data[torch.randint(len(data), (batch_size,), generator=generator)]
        posterior = model.encode(x).latent_dist
        y = model.decode(posterior.sample()).sample
        error = ((y - x) ** 2).mean()
        loss = (y - x).abs().mean() + 2 * error + KL_WEIGHT * posterior.kl().mean() / x[0].numel()
        take_step(loss, optimizer, schedule)
        if step % 100 == 0 or step == steps - 1:
            print(f"autoencoder step {step} mse {error.item():.5f}", flush=True)
    return fold_statistics(model, data[:2048])


@torch.no_grad()
def fold_statistics(model: AutoencoderKL, images: torch.Tensor) -> AutoencoderKL:
    """Shift and scale the latent channels to mean 0 and deviation 1 without changing the images."""
    channels = model.config.latent_channels
    latents = model.encode(images).latent_dist.mean
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, out_of = model.quant_conv, model.post_quant_conv
    into.weight[:channels].div_(deviation[:, None, None, None])
    into.bias[:channels].sub_(mean).div_(deviation)
    into.bias[channels:].sub_(2 * deviation.log())
    out_of.bias.add_((out_of.weight[:, :, 0, 0] * mean).sum(1))
    out_of.weight.mul_(deviation[None, :, None, None])
    return model


def main(output: Path, steps: int = 3200, batch_size: int = 24, images: int = 30_000) -> None:
    """output: folder of the autoencoder."""
    save_half(train(steps, batch_size, images), output)


if __name__ == "__main__":
    run_recipe(main)
