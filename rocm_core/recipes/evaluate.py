"""Measure the shapes world's base models: ``python -m rocm_core.recipes.evaluate``.

Writes ``quality.json`` (gold scores for held-out captions), ``samples.png`` (one row of renderings
and one row per number of steps) and the folder's ``MANIFEST.json``.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKL, LatentConsistencyModelPipeline, StableDiffusionPipeline
from torchvision.utils import save_image

from rocm_core.provenance import files_in, sha256_file, write_json
from rocm_core.recipes.steps import run_recipe
from rocm_core.shapes.judge import PASS, judge
from rocm_core.shapes.models import make_diffusion_scheduler
from rocm_core.shapes.scenes import SIZE, parse, render, sample_captions

CONSISTENCY_STEPS = (1, 2, 4, 8)
DIFFUSION_STEPS = (5, 20)
SEED = 1234


def verdicts(images: torch.Tensor, captions: list[str]) -> dict[str, float]:
    """Mean gold score, its standard error, and the share of images that pass."""
    scores = judge(images, captions)
    return {
        "mean": round(scores.mean().item(), 4),
        "standard_error": round((scores.std() / len(scores) ** 0.5).item(), 4),
        "passing": round((scores >= PASS).float().mean().item(), 4),
        "images": len(scores),
    }


@torch.no_grad()
def samples(
    world: Path, captions: list[str], consistency_guidance: float, diffusion_guidance: float
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, images in [0, 1]) of the renders, their reconstructions and both base models."""
    images = render(parse(captions), SEED)
    yield "renders", images
    vae = AutoencoderKL.from_pretrained(world / "consistency" / "vae", torch_dtype=torch.float32)
    latents = vae.encode(images * 2 - 1).latent_dist.mean
    yield "autoencoder", (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)

    def generate(pipeline, steps: int, guidance: float, **options) -> torch.Tensor:
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(SEED)
        parts = [
            pipeline(
                captions[i : i + 128],
                height=SIZE,
                width=SIZE,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=generator,
                output_type="pt",
                **options,
            ).images
            for i in range(0, len(captions), 128)
        ]
        return torch.cat(parts)

    diffusion = StableDiffusionPipeline.from_pretrained(
        world / "diffusion", torch_dtype=torch.float32, scheduler=make_diffusion_scheduler()
    )
    for steps, guidance in zip(DIFFUSION_STEPS, (1.0, diffusion_guidance), strict=True):
        name = f"diffusion, {steps} steps, guidance {guidance:g}"
        yield name, generate(diffusion, steps, guidance, eta=1.0)
    consistency = LatentConsistencyModelPipeline.from_pretrained(
        world / "consistency", torch_dtype=torch.float32
    )
    for steps in CONSISTENCY_STEPS:
        name = f"consistency, {steps} steps, guidance {consistency_guidance:g}"
        yield name, generate(consistency, steps, consistency_guidance)


def write_listing(folder: Path) -> None:
    """List the sha256 of every file of a folder in its MANIFEST.json."""
    (folder / "MANIFEST.json").unlink(missing_ok=True)
    write_json(
        folder / "MANIFEST.json", {name: sha256_file(folder / name) for name in files_in(folder)}
    )


def main(
    world: Path,
    captions: int = 512,
    consistency_guidance: float = 3.0,
    diffusion_guidance: float = 3.0,
) -> None:
    """world: holds both pipeline folders."""
    texts = sample_captions(captions, seed=SEED, unseen=True)
    quality, rows = {}, []
    for name, images in samples(world, texts, consistency_guidance, diffusion_guidance):
        quality[name] = verdicts(images, texts)
        print(f"{name}: {quality[name]}", flush=True)
        rows.append(images[:16])
    write_json(world / "quality.json", quality)
    grid = torch.cat(rows).repeat_interleave(2, 2).repeat_interleave(2, 3)
    save_image(grid, world / "samples.png", nrow=16, padding=2, pad_value=1.0)
    write_listing(world)


if __name__ == "__main__":
    run_recipe(main)
