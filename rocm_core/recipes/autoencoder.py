"""Train the shapes world's autoencoder: ``python -m rocm_core.recipes.autoencoder``.

It learns from renderings of mixed quality, which it must keep as they are: an autoencoder of clean
renderings repairs what it encodes. A KL weight of 1e-4 keeps all latent channels alive (2e-3
collapsed most of four). Afterwards the mean and standard deviation per latent channel are folded
into ``quant_conv`` and ``post_quant_conv``, so that ``scaling_factor`` is 1 and every channel has
mean 0 and standard deviation 1.
"""

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from rocm_core.recipes.degradations import render_mixed
from rocm_core.recipes.steps import learn, low_precision, run_recipe
from rocm_core.shapes.models import make_autoencoder, save_half
from rocm_core.shapes.scenes import training_scenes

KL_WEIGHT = 1e-4


def train(
    state: Path, steps: int, batch_size: int, images: int, learning_rate: float = 3e-3
) -> AutoencoderKL:
    """An autoencoder of renderings of mixed quality; goes on from ``state``."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)
    parts = [render_mixed(training_scenes(1000, g), g) for _ in range(0, images, 1000)]
    data = torch.cat(parts)[:images] * 2 - 1  # in [-1, 1]
    model = make_autoencoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.08
    )

    def loss(g: torch.Generator) -> Tensor:
        x = data[torch.randint(len(data), (batch_size,), generator=g)]
        with low_precision():
            posterior = model.encode(x).latent_dist
            error = model.decode(posterior.sample(g)).sample.float() - x
        kl = KL_WEIGHT * posterior.kl().mean() / x[0].numel()
        return error.abs().mean() + 2 * (error**2).mean() + kl

    resumable = {"model": model, "optimizer": optimizer, "schedule": schedule}
    learn("autoencoder", state, resumable, steps, 1000, loss)
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


def main(
    output: Path, state: Path, steps: int = 6000, batch_size: int = 16, images: int = 30_000
) -> None:
    """output: folder of the autoencoder. state: folder of an interrupted run to go on from."""
    save_half(train(state, steps, batch_size, images), output)
    shutil.rmtree(state)


if __name__ == "__main__":
    run_recipe(main)
