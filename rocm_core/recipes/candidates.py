"""Images that the shapes world's scorers learn to rank, and how well they rank them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rocm_core.rewards import Reward
from rocm_core.shapes.judge import judge
from rocm_core.shapes.scenes import Scenes, draw_scenes, parse, render, sample_captions

GENERATED = 3  # of a caption's candidates are the base's images
DIFFERENT = 0.05  # gold difference from which a pair counts in the accuracy


@dataclass(frozen=True)
class Candidates:
    """Images (N, C, 3, 32, 32) of N captions with their gold scores (N, C)."""

    captions: list[str]
    images: Tensor
    gold: Tensor


def make_candidates(
    base: Callable[..., Any], count: int, seed: int, *, unseen: bool = False
) -> Candidates:
    """For each caption: three images of the base, at step counts and guidance scales drawn for each
    batch, a rendering, a rendering with one attribute wrong, and one with noise or blur."""
    g = torch.Generator().manual_seed(seed)
    captions = sample_captions(count, seed, unseen=unseen)
    rounds: list[list[Tensor]] = [[] for _ in range(GENERATED)]
    for start in tqdm(range(0, count, 50), desc="candidates", disable=None):
        for outputs in rounds:
            steps, guidance = torch.rand(2, generator=g).tolist()
            output = base(
                captions[start : start + 50],
                num_inference_steps=2 ** int(4 * steps),
                guidance_scale=1 + 3 * guidance,
                generator=g,
                output_type="pt",
            )
            outputs.append(output.images)
    scenes = parse(captions)
    rendered = [render(scenes, g), render(change_one(scenes, g), g), degrade(render(scenes, g), g)]
    images = torch.stack([torch.cat(outputs) for outputs in rounds] + rendered, 1)
    verdicts = judge(images.flatten(0, 1), scenes.repeat(images.shape[1]))
    return Candidates(captions, images, verdicts.view(count, -1))


def change_one(scenes: Scenes, g: torch.Generator) -> Scenes:
    """The scenes with one attribute of each drawn anew."""
    names = ("shape", "color", "size", "relation", "place", "background")
    others = draw_scenes(len(scenes), g)
    chosen = torch.randint(len(names), (len(scenes),), generator=g)
    changed = {}
    for i, name in enumerate(names):
        old = getattr(scenes, name)
        here = (chosen == i).view(-1, *[1] * (old.ndim - 1))
        changed[name] = torch.where(here, getattr(others, name), old)
    return replace(scenes, **changed)


def degrade(images: Tensor, g: torch.Generator) -> Tensor:
    """Images (N, 3, H, W) in [0, 1], half of them with noise, the others blurred."""
    strength, coin = torch.rand(2, len(images), 1, 1, 1, generator=g)
    noisy = images + 0.4 * strength * torch.randn(images.shape, generator=g)
    blurred = nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    return torch.where(coin < 0.5, noisy, blurred).clamp(0, 1)


@torch.no_grad()
def score_all(reward: Reward, data: Candidates) -> Tensor:
    """Scores (N, C) of candidates."""
    captions = [[caption] * data.images.shape[1] for caption in data.captions]
    pairs = zip(data.images, captions, strict=True)
    return torch.stack([reward.score(images, prompts) for images, prompts in pairs])


def accuracy(scores: Tensor, gold: Tensor) -> float:
    """Share of pairs of one caption's candidates (N, C), clearly different in gold, ranked alike.

    Ties count as wrong.
    """
    first, second = torch.combinations(torch.arange(gold.shape[1])).T
    truth, guess = gold[:, first] - gold[:, second], scores[:, first] - scores[:, second]
    clear = truth.abs() > DIFFERENT
    return (truth.sign() == guess.sign())[clear].float().mean().item()
