"""Measure the shapes world's base models: ``python -m rocm_core.recipes.evaluate``.

Adds the scorers to the folder and writes ``quality.json`` (gold scores for held-out captions, and
how far the images of one caption differ), ``scorers.json`` (what each scorer is worth, twice
trained), ``samples.png`` (a row for each kind of images), ``seeds.png`` (four images of each of
some captions) and the folder's ``MANIFEST.json``.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    LatentConsistencyModelPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
)
from torch import Tensor
from torchvision.utils import save_image

from rocm_core.provenance import files_in, sha256_file, write_json
from rocm_core.recipes.degradations import render_mixed
from rocm_core.recipes.flow import WITHOUT_T5
from rocm_core.recipes.steps import run_recipe
from rocm_core.shapes.judge import PASS, judge
from rocm_core.shapes.models import make_diffusion_scheduler
from rocm_core.shapes.scenes import SIZE, parse, render, sample_captions

GUIDANCE = 1.0
CONSISTENCY_STEPS = (1, 2, 4, 8)
DIFFUSION_STEPS = (5, 20)
FLOW_STEPS = (2, 4, 8)  # with one, its scheduler has no noise levels
SPREAD_STEPS = {"consistency": 4, "diffusion": 5, "flow": 4}
SPREAD_CAPTIONS, SPREAD_SEEDS = 100, 4
SEED = 1234

Generate = Callable[..., Tensor]


def verdicts(images: Tensor, captions: list[str]) -> dict[str, float]:
    """Mean gold score, its standard error, and the shares of images that pass."""
    scores, pair = judge(images, captions), parse(captions).pair
    passes = (scores >= PASS).float()
    return {
        "mean": round(scores.mean().item(), 4),
        "standard_error": round((scores.std() / len(scores) ** 0.5).item(), 4),
        "passing": round(passes.mean().item(), 4),
        "passing_singles": round(passes[~pair].mean().item(), 4),
        "passing_pairs": round(passes[pair].mean().item(), 4),
        "images": len(scores),
    }


def generators(world: Path) -> dict[str, Generate]:
    """For each base: (captions, steps, seed) to images in [0, 1], by diffusers' own pipelines."""
    diffusion = StableDiffusionPipeline.from_pretrained(
        world / "diffusion", torch_dtype=torch.float32, scheduler=make_diffusion_scheduler()
    )
    consistency = LatentConsistencyModelPipeline.from_pretrained(
        world / "consistency", torch_dtype=torch.float32
    )
    flow = StableDiffusion3Pipeline.from_pretrained(
        world / "flow", torch_dtype=torch.float32, **WITHOUT_T5
    )

    def generator(pipeline: Any, **options: Any) -> Generate:
        pipeline.set_progress_bar_config(disable=True)

        def generate(captions: list[str], steps: int, seed: int = SEED) -> Tensor:
            # The flow's scheduler is given no generator; its noise must not be that of the latents.
            torch.manual_seed(1_000_000 + seed)
            g = torch.Generator().manual_seed(seed)
            parts = [
                pipeline(
                    captions[i : i + 128],
                    height=SIZE,
                    width=SIZE,
                    num_inference_steps=steps,
                    guidance_scale=GUIDANCE,
                    generator=g,
                    output_type="pt",
                    **options,
                ).images
                for i in range(0, len(captions), 128)
            ]
            return torch.cat(parts)

        return generate

    return {
        "diffusion": generator(diffusion, eta=1.0),
        "consistency": generator(consistency),
        "flow": generator(flow, max_sequence_length=0),
    }


@torch.no_grad()
def samples(
    world: Path, captions: list[str], bases: dict[str, Generate]
) -> Iterator[tuple[str, Tensor]]:
    """(name, images in [0, 1]) of renderings, what the autoencoder makes of them, and the bases."""
    scenes = parse(captions)
    perfect = render(scenes, SEED)
    mixed = render_mixed(scenes, torch.Generator().manual_seed(SEED))
    vae = AutoencoderKL.from_pretrained(world / "consistency" / "vae", torch_dtype=torch.float32)
    for name, images in (("renderings", perfect), ("renderings of mixed quality", mixed)):
        yield name, images
        latents = vae.encode(images * 2 - 1).latent_dist.mean
        yield f"autoencoder on {name}", (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    kinds = {"diffusion": DIFFUSION_STEPS, "consistency": CONSISTENCY_STEPS, "flow": FLOW_STEPS}
    for name, counts in kinds.items():
        for steps in counts:
            yield f"{name}, {steps} steps", bases[name](captions, steps)


def spread(generate: Generate, captions: list[str], steps: int) -> tuple[float, Tensor]:
    """Standard deviation of gold between images of one caption, and the images (N, S, 3, 32, 32).

    captions: N, of single objects: most pairs fail whatever the quality of the image.
    """
    images = torch.stack([generate(captions, steps, seed) for seed in range(SPREAD_SEEDS)], 1)
    scores = judge(images.flatten(0, 1), parse(captions).repeat(SPREAD_SEEDS))
    return scores.view(-1, SPREAD_SEEDS).std(1).mean().item(), images


def write_listing(folder: Path) -> None:
    """List the sha256 of every file of a folder in its MANIFEST.json."""
    (folder / "MANIFEST.json").unlink(missing_ok=True)
    write_json(
        folder / "MANIFEST.json", {name: sha256_file(folder / name) for name in files_in(folder)}
    )


def main(
    world: Path,
    scorers: tuple[str, ...] = (),
    again: tuple[str, ...] = (),
    captions: int = 512,
) -> None:
    """world: holds both pipeline folders. scorers: folders to copy there. again: folders of the
    same ones, trained with other seeds."""
    texts = sample_captions(captions, seed=SEED, unseen=True)
    singles = [text for text in texts if not parse(text).pair][:SPREAD_CAPTIONS]
    bases, quality, rows = generators(world), {}, []
    for name, images in samples(world, texts, bases):
        quality[name] = verdicts(images, texts)
        print(f"{name}: {quality[name]}", flush=True)
        rows.append(images[:16])
    seeds = []
    for name, steps in SPREAD_STEPS.items():
        deviation, images = spread(bases[name], singles, steps)
        quality[f"{name}, {steps} steps"]["deviation_between_seeds"] = round(deviation, 4)
        print(f"{name}: deviation between seeds {deviation:.3f}", flush=True)
        seeds.append(images[:16].flatten(0, 1))
    write_json(world / "quality.json", quality)
    for file, parts in (("samples", rows), ("seeds", seeds)):
        grid = torch.cat(parts).repeat_interleave(2, 2).repeat_interleave(2, 3)
        save_image(grid, world / f"{file}.png", nrow=16, padding=2, pad_value=1.0)
    for scorer in map(Path, scorers):
        shutil.copytree(scorer, world / "scorers" / scorer.name, dirs_exist_ok=True)
    if scorers:
        metrics: dict[str, list[Any]] = {}
        for scorer in map(Path, (*scorers, *again)):
            text = (scorer / "metrics.json").read_text(encoding="utf-8")
            metrics.setdefault(scorer.name, []).append(json.loads(text))
        write_json(world / "scorers.json", metrics)
    write_listing(world)


if __name__ == "__main__":
    run_recipe(main)
