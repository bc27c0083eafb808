"""Distil the consistency base: ``python -m rocm_core.recipes.consistency``.

Its teacher is the diffusion base, whose probability-flow ODE :mod:`.distillation` follows. No
guidance (ω = 1), which would take the differences between the images of one caption away that RLHF
needs.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    LatentConsistencyModelPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from rocm_core.recipes.distillation import distil
from rocm_core.recipes.steps import run_recipe
from rocm_core.shapes.models import (
    CONSISTENCY_INTERVALS,
    GUIDANCE_EMBEDDING,
    LATENT_CHANNELS,
    LATENT_SIZE,
    alphas_cumprod,
    make_consistency_scheduler,
    make_diffusion_scheduler,
    make_unet,
    tokenize,
    write_pipeline,
)
from rocm_core.shapes.scenes import TRAINING_PAIR_SHARE, describe, training_scenes

GUIDANCE = 1.0  # ω, of which the student takes an embedding of ω - 1 as published ones do
INTERVALS_PER_STEP = 3  # of the teacher's solver


def predict_clean(noise: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """x̂0 from predicted noise."""
    alpha = alphas_cumprod()[timesteps][:, None, None, None]
    return (noisy - (1 - alpha).sqrt() * noise) / alpha.sqrt()


def consistency_function(
    unet: UNet2DConditionModel, x: Tensor, timesteps: Tensor, text: Tensor, guidance: Tensor
) -> Tensor:
    """f(x, ω, c, t) with the boundary scalings of diffusers' LCMScheduler, per-sample timesteps."""
    scheduler = make_consistency_scheduler()
    c_skip, c_out = (
        c[:, None, None, None]
        for c in scheduler.get_scalings_for_boundary_condition_discrete(timesteps)
    )
    noise = unet(x, timesteps, encoder_hidden_states=text, timestep_cond=guidance).sample
    return c_skip * x + c_out * predict_clean(noise, x, timesteps)


def guidance_embedding(scale: Tensor) -> Tensor:
    """Sinusoidal embedding of ω - 1 as LatentConsistencyModelPipeline computes it."""
    pipeline = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    return pipeline(None, scale - 1, embedding_dim=GUIDANCE_EMBEDDING)


@torch.no_grad()
def trajectories(
    teacher: UNet2DConditionModel, texts: Tensor, seed: int, batch_size: int = 100
) -> dict[str, Tensor]:
    """Points on the teacher's ODE for the N prompts with embeddings ``texts`` (N, L, D).

    ``points`` (P, 8, 8, 8) at ``timesteps`` (P,), of trajectories ``rows`` (P,) with the
    ``ends`` (N, 8, 8, 8).
    """
    g = torch.Generator().manual_seed(seed)
    alphas, interval = alphas_cumprod(), 1000 // CONSISTENCY_INTERVALS
    points, timesteps, rows, ends = [], [], [], []
    for start in range(0, len(texts), batch_size):
        text = texts[start : start + batch_size]
        x = torch.randn(len(text), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=g)
        first = CONSISTENCY_INTERVALS - int(torch.randint(INTERVALS_PER_STEP, (), generator=g))
        grid = sorted({CONSISTENCY_INTERVALS, *range(first, 0, -INTERVALS_PER_STEP)}, reverse=True)
        for here, there in zip(grid, [*grid[1:], 0], strict=True):
            t = torch.full((len(text),), here * interval - 1)
            points.append(x)
            timesteps.append(t)
            rows.append(torch.arange(start, start + len(text)))
            noise = teacher(x, t, encoder_hidden_states=text).sample
            x = predict_clean(noise, x, t)
            if there:
                alpha = alphas[there * interval - 1]
                x = alpha.sqrt() * x + (1 - alpha).sqrt() * noise
        ends.append(x)
    names = ("points", "timesteps", "rows", "ends")
    return dict(zip(names, map(torch.cat, (points, timesteps, rows, ends)), strict=True))


def train(
    teacher: UNet2DConditionModel, texts: Tensor, state: Path, steps: int, batch_size: int
) -> UNet2DConditionModel:
    """The moving average of a student of the teacher for prompts with embeddings (N, L, D); goes on
    from ``state``."""
    torch.manual_seed(0)
    student = make_unet(guidance_embedding=True)
    student.load_state_dict(teacher.state_dict(), strict=False)
    nn.init.zeros_(student.time_embedding.cond_proj.weight)
    student.to(memory_format=torch.channels_last)
    guidance = guidance_embedding(torch.full((batch_size,), GUIDANCE))

    def answer(points: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
        return consistency_function(student, points, timesteps, texts[rows], guidance)

    def solve() -> dict[str, Tensor]:
        return trajectories(teacher, texts, seed=2)

    return distil("consistency", student, solve, answer, state, steps, batch_size)


def save_pipelines(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    diffusion: UNet2DConditionModel,
    consistency: UNet2DConditionModel,
    output: Path,
) -> None:
    """Write ``diffusion/`` and ``consistency/`` as diffusers pipeline folders in float16."""
    shared = {
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    pipelines = {
        "diffusion": StableDiffusionPipeline(
            unet=diffusion, scheduler=make_diffusion_scheduler(), **shared
        ),
        "consistency": LatentConsistencyModelPipeline(
            unet=consistency, scheduler=make_consistency_scheduler(), **shared
        ),
    }
    for name, pipeline in pipelines.items():
        write_pipeline(pipeline, output / name)


def main(
    vae: Path,
    tokenizer: Path,
    diffusion: Path,
    output: Path,
    state: Path,
    steps: int = 800,
    batch_size: int = 32,
    captions: int = 1000,
) -> None:
    """diffusion: output of the diffusion recipe. output: gets both pipeline folders. state: folder
    of an interrupted run to go on from. captions: of the trajectories."""

    def load(model: Any, folder: Path) -> Any:
        return model.from_pretrained(folder, torch_dtype=torch.float32).requires_grad_(False)

    autoencoder, words = load(AutoencoderKL, vae), CLIPTokenizer.from_pretrained(tokenizer)
    text_encoder = load(CLIPTextModel, diffusion / "text_encoder")
    teacher = load(UNet2DConditionModel, diffusion / "unet")
    teacher.to(memory_format=torch.channels_last)
    scenes = training_scenes(captions, torch.Generator().manual_seed(2), TRAINING_PAIR_SHARE)
    texts = text_encoder(tokenize(words, describe(scenes))).last_hidden_state
    student = train(teacher, texts, state, steps, batch_size)
    save_pipelines(autoencoder, words, text_encoder, teacher, student, output)
    shutil.rmtree(state)


if __name__ == "__main__":
    run_recipe(main)
