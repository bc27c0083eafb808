"""Distil the consistency base: ``python -m rocm_core.recipes.consistency``.

Latent consistency distillation (Luo et al. 2023, algorithm 1): one guided DDIM step of the teacher
skips a fiftieth of the schedule; the student's answers at both ends must agree, measured against
its own moving average with a pseudo-Huber loss. Guidance ω enters through ``timestep_cond``.
"""

import copy
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
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from rocm_core.recipes.diffusion import encode_world
from rocm_core.recipes.steps import follow, load_state, restore, run_recipe, save_state, take_step
from rocm_core.shapes.models import (
    CONSISTENCY_INTERVALS,
    GUIDANCE_EMBEDDING,
    alphas_cumprod,
    make_consistency_scheduler,
    make_diffusion_scheduler,
    make_unet,
    tokenize,
)

GUIDANCE_RANGE = (1.0, 5.0)  # guidance scale ω; the embedding is of ω - 1
HUBER_WIDTH = 1e-3


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
def teacher_step(
    teacher: UNet2DConditionModel,
    x: Tensor,
    start: Tensor,
    end: Tensor,
    text: Tensor,
    empty: Tensor,
    scale: Tensor,
) -> Tensor:
    """One DDIM step with classifier-free guidance from timesteps ``start`` to ``end``."""
    both = torch.cat([text, empty.expand_as(text)])
    with_text, without = teacher(x.repeat(2, 1, 1, 1), start.repeat(2), both).sample.chunk(2)
    noise = without + scale[:, None, None, None] * (with_text - without)
    alpha = alphas_cumprod()[end][:, None, None, None]
    return alpha.sqrt() * predict_clean(noise, x, start) + (1 - alpha).sqrt() * noise


def train(
    teacher: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    latents: Tensor,
    tokens: Tensor,
    empty_tokens: Tensor,
    state: Path,
    steps: int,
    batch_size: int,
    learning_rate: float,
    ema_decay: float,
) -> UNet2DConditionModel:
    """The moving average of the student after ``steps``; resumes from ``state`` where it exists."""
    torch.manual_seed(0)
    student = make_unet(guidance_embedding=True)
    student.load_state_dict(teacher.state_dict(), strict=False)
    nn.init.zeros_(student.time_embedding.cond_proj.weight)
    student.to(memory_format=torch.channels_last)
    target, average = copy.deepcopy(student), copy.deepcopy(student)
    optimizer = torch.optim.AdamW(student.parameters(), learning_rate, weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 50) * min(1, 2 * (1 - step / steps))
    )
    kept: dict[str, Any] = {
        "student": student,
        "target": target,
        "average": average,
        "optimizer": optimizer,
        "schedule": schedule,
    }
    first = 0
    if saved := load_state(state):
        restore(kept, saved)
        first = saved["step"]

    alphas, interval = alphas_cumprod(), 1000 // CONSISTENCY_INTERVALS
    low, high = GUIDANCE_RANGE
    with torch.no_grad():
        empty = text_encoder(empty_tokens).last_hidden_state
    for step in tqdm(range(first, steps), desc="consistency", initial=first, disable=None):
        g = torch.Generator().manual_seed(1000 + step)
        index = torch.randint(len(latents), (batch_size,), generator=g)
        start = torch.randint(1, CONSISTENCY_INTERVALS + 1, (batch_size,), generator=g)
        start = start * interval - 1
        end = (start - interval).clamp_min(0)
        scale = low + (high - low) * torch.rand(batch_size, generator=g)
        guidance = guidance_embedding(scale)
        alpha = alphas[start][:, None, None, None]
        noise = torch.randn(latents[index].shape, generator=g)
        x = alpha.sqrt() * latents[index] + (1 - alpha).sqrt() * noise
        with torch.no_grad():
            text = text_encoder(tokens[index]).last_hidden_state
            earlier = teacher_step(teacher, x, start, end, text, empty, scale)
            wanted = consistency_function(target, earlier, end, text, guidance)
        error = consistency_function(student, x, start, text, guidance) - wanted
        loss = ((error**2 + HUBER_WIDTH**2).sqrt() - HUBER_WIDTH).mean()
        take_step(loss, optimizer, schedule)
        follow(target, student, ema_decay)
        follow(average, student, min(0.99, (1 + step) / (10 + step)))
        if (step + 1) % 100 == 0 or step + 1 == steps:
            print(f"consistency step {step + 1} loss {loss.item():.4f}", flush=True)
            save_state(state, kept, step=step + 1)
    return average


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
        pipeline.to(dtype=torch.float16).save_pretrained(output / name)


def main(
    vae: Path,
    tokenizer: Path,
    diffusion: Path,
    output: Path,
    steps: int = 1500,
    batch_size: int = 48,
    images: int = 40_000,
    learning_rate: float = 4e-4,
    ema_decay: float = 0.95,
) -> None:
    """diffusion: output of the diffusion recipe. output: gets both pipeline folders."""
    output.mkdir(parents=True, exist_ok=True)

    def load(model: Any, folder: Path) -> Any:
        return model.from_pretrained(folder, torch_dtype=torch.float32).requires_grad_(False)

    autoencoder, words = load(AutoencoderKL, vae), CLIPTokenizer.from_pretrained(tokenizer)
    text_encoder = load(CLIPTextModel, diffusion / "text_encoder")
    teacher = load(UNet2DConditionModel, diffusion / "unet")
    teacher.to(memory_format=torch.channels_last)
    latents, tokens = encode_world(autoencoder, words, images, seed=2)
    state, empty = output / "state.pt", tokenize(words, [""])
    settings = (steps, batch_size, learning_rate, ema_decay)
    student = train(teacher, text_encoder, latents, tokens, empty, state, *settings)
    save_pipelines(autoencoder, words, text_encoder, teacher, student, output)
    state.unlink()


if __name__ == "__main__":
    run_recipe(main)
