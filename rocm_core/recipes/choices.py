"""Images of the shapes world's bases to choose between: ``python -m rocm_core.recipes.choices``.

There are several of every caption, of both bases, each with its gold score; other candidates are
made by a policy in training. What a rater says about two of them is for :mod:`.scorers`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from rocm_core.algorithms import load_settings
from rocm_core.configuration import TrainingSettings
from rocm_core.policies import Policy, load_policy
from rocm_core.prompts import Prompt
from rocm_core.provenance import atomic_write
from rocm_core.recipes.steps import run_recipe
from rocm_core.shapes.judge import judge
from rocm_core.shapes.scenes import parse, sample_captions
from rocm_core.training import Trainer

POLICIES = {"consistency": ("lcm", 4), "diffusion": ("ddim", 5)}  # chain and steps; guidance is 1
IMAGES = ("consistency", "consistency", "consistency", "diffusion")  # of each caption
TARGETS = "to_q to_k to_v to_out.0 proj_in proj_out conv1 conv2 ff.net.0.proj ff.net.2"


@dataclass(frozen=True)
class Candidates:
    """Images (N, C, 3, 32, 32) of N captions, in 8 bits, with their gold scores (N, C)."""

    captions: list[str]
    images: Tensor
    gold: Tensor


def base_candidates(world: Path, count: int, seed: int, *, unseen: bool = False) -> Candidates:
    """Images of the bases in a folder for captions that nothing else draws with this seed."""
    captions = sample_captions(count, seed, unseen=unseen)
    columns = []
    for place, name in enumerate(tqdm(IMAGES, desc="images of the bases", disable=None)):
        policy = load_policy(training_settings(world, name))
        columns.append(sample(policy, encode(policy, captions), f"{seed}/{place}"))
    return judged(captions, columns)


def candidates_along(
    settings: TrainingSettings, prompts: list[str], captions: list[str], looks: Collection[int]
) -> Candidates:
    """Images of captions after each of the iterations ``looks`` of a training on prompts."""
    embeddings = encode(load_policy(settings), captions)
    numbered = [Prompt(str(i), text, "shapes") for i, text in enumerate(prompts)]
    trainer, columns = Trainer(settings, numbered, "", Accelerator(cpu=True)), []
    for step in range(settings.iterations + 1):
        if step:
            trainer.iterate(step)
        if step in looks:
            columns.append(sample(trainer.policy, embeddings, str(settings.seed)))
    return judged(captions, columns)


def training_settings(world: Path, policy: str, **values: Any) -> TrainingSettings:
    """Settings of a short training of a base of the world."""
    chain, steps = POLICIES[policy]
    defaults = {
        "policy": policy,
        "chain": chain,
        "model": str(world / policy),
        "inference_steps": steps,
        "guidance_scale": 1.0,
        "reward": "gold",
        "scorer": None,
        "algorithm": "direct",
        "divergence": "none",
        "beta": 0.0,
        "seed": 0,
        "lora_rank": 8,
        "lora_alpha": 16.0,
        "lora_targets": TARGETS.split(),
        "precision": "float32",
    }
    return load_settings(defaults | values)


@torch.no_grad()
def encode(policy: Policy, captions: Sequence[str]) -> dict[str, Tensor]:
    """The captions' embeddings, as policies take them, without a gradient."""
    return dict(policy.encode_prompts(captions))


@torch.no_grad()
def sample(policy: Policy, embeddings: Mapping[str, Tensor], stream: str) -> Tensor:
    """Images (N, 3, 32, 32) in 8 bits for N captions, from noise of the stream's own."""
    images, count = [], len(next(iter(embeddings.values())))
    for rows in torch.arange(count).split(50):
        noise = policy.noise(0, [f"{stream}/{row}" for row in rows.tolist()], "generation")
        some = {name: values[rows] for name, values in embeddings.items()}
        latents = policy.rollout(some, noise).latents
        images.append((policy.decode(latents) * 255).round().to(torch.uint8))
    return torch.cat(images)


def judged(captions: list[str], columns: Sequence[Tensor]) -> Candidates:
    """The captions' images, each column (N, 3, 32, 32), with their gold scores."""
    images = torch.stack(list(columns), 1)
    gold = judge(images.flatten(0, 1) / 255, parse(captions).repeat(images.shape[1]))
    return Candidates(captions, images, gold.view(len(captions), -1))


def main(world: Path, output: Path, captions: int = 500, seed: int = 99) -> None:
    """world: holds both pipeline folders. output: file of the candidates."""
    with atomic_write(output) as file:
        torch.save(vars(base_candidates(world, captions, seed)), file)


if __name__ == "__main__":
    run_recipe(main)
