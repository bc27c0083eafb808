"""Train the shapes world's six scorers: ``python -m rocm_core.recipes.scorers``.

Each repeats its published model's training at a tiny size, on renderings, images, noise and a seed
of its own: contrastive learning on captioned renderings (``clipscore``, ``blipscore``), and from
there, for ``hpsv2``, ``pickscore``, ``imagereward`` and ``aesthetic`` (which sees no prompt),
Bradley–Terry learning of noisy choices between two images, made by the gold judge. Nothing is done
to make them more or less robust: they are as imperfect as small networks trained on few noisy
choices, and ``metrics.json`` in each folder records their accuracy.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import LatentConsistencyModelPipeline
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTokenizer

from rocm_core.errors import run
from rocm_core.provenance import write_json
from rocm_core.recipes.architectures import make_clip, make_scorer, save_scorer
from rocm_core.recipes.candidates import (
    GENERATED,
    Candidates,
    accuracy,
    make_candidates,
    score_all,
)
from rocm_core.rewards import load_reward
from rocm_core.rewards.aesthetic import Aesthetic
from rocm_core.rewards.blipscore import BlipScore
from rocm_core.rewards.clipscore import ClipScore
from rocm_core.rewards.frozen import FrozenReward
from rocm_core.rewards.hpsv2 import HPSv2
from rocm_core.rewards.imagereward import MEAN, STD, ImageReward
from rocm_core.shapes.scenes import describe, render, training_scenes


@dataclass(frozen=True)
class Recipe:
    """How one scorer learns.

    A simulated rater prefers an image with odds exp(gold difference / ``temperature``) : 1, and
    chooses at random in a share ``slips`` of all cases.
    """

    seed: int
    contrast_steps: int
    choice_steps: int = 0
    captions: int = 700
    temperature: float = 0.1
    slips: float = 0.1


RECIPES = {
    "clipscore": Recipe(seed=101, contrast_steps=320),
    "blipscore": Recipe(seed=102, contrast_steps=320),
    "hpsv2": Recipe(seed=103, contrast_steps=210, choice_steps=250),
    "pickscore": Recipe(seed=104, contrast_steps=210, choice_steps=250, temperature=0.15),
    "imagereward": Recipe(seed=105, contrast_steps=210, choice_steps=250, slips=0.15),
    "aesthetic": Recipe(seed=106, contrast_steps=140, choice_steps=210),
}
EVALUATION_SEED, EVALUATION_CAPTIONS = 100, 250
RENDERINGS = 16_384  # of the contrastive stage
BATCH, PAIRS = 128, 64


def contrast(reward: FrozenReward, steps: int, seed: int) -> None:
    """Match renderings and captions: softmax over the other members of the batch, both ways."""
    g = torch.Generator().manual_seed(seed)
    scenes = training_scenes(RENDERINGS, g)
    images, captions = render(scenes, g), describe(scenes)
    own = getattr(reward, "clip", None)
    scale = nn.Parameter(torch.tensor(2.6)) if own is None else own.logit_scale
    parameters: list[nn.Parameter] = list(dict.fromkeys([*reward.parameters(), scale]))
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, steps, pct_start=0.1)
    target = torch.arange(BATCH)
    for _ in tqdm(range(steps), desc="contrast", disable=None):
        index = torch.randint(len(images), (BATCH,), generator=g)
        strength = 0.05 * torch.rand(BATCH, 1, 1, 1, generator=g)
        noise = strength * torch.randn(BATCH, *images.shape[1:], generator=g)
        image = reward.encode_images(reward.preprocessing(images[index] + noise))
        text = reward.encode_texts([captions[i] for i in index])
        logits = scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        take_step(loss, optimizer, schedule, parameters)


def choose(reward: FrozenReward, data: Candidates, recipe: Recipe) -> None:
    """Bradley–Terry: the score difference is the log odds of a noisy choice between two images."""
    g = torch.Generator().manual_seed(recipe.seed + 1)
    parameters = list(reward.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=4e-4, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 4e-4, recipe.choice_steps, pct_start=0.1
    )
    for _ in tqdm(range(recipe.choice_steps), desc="choices", disable=None):
        row = torch.randint(len(data.captions), (PAIRS,), generator=g)
        pair = torch.rand(PAIRS, data.gold.shape[1], generator=g).argsort(1)[:, :2].T
        odds = (data.gold[row, pair[0]] - data.gold[row, pair[1]]) / recipe.temperature
        label = torch.rand(PAIRS, generator=g) < odds.sigmoid()
        slip = torch.rand(PAIRS, generator=g) < recipe.slips
        label = torch.where(slip, torch.rand(PAIRS, generator=g) < 0.5, label).float()
        pixels = reward.preprocessing(data.images[row.repeat(2), pair.flatten()])
        texts = reward.encode_texts([data.captions[i] for i in row])
        scores = reward.compare(reward.encode_images(pixels), torch.cat([texts, texts]))
        if isinstance(reward, HPSv2):
            scores = reward.clip.logit_scale.exp() * scores
        first, second = scores.chunk(2)
        loss = F.binary_cross_entropy_with_logits(first - second, label)
        take_step(loss, optimizer, schedule, parameters)


def take_step(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    parameters: list[nn.Parameter],
) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()


def train(
    name: str, recipe: Recipe, base: Callable[..., Any], tokenizer: CLIPTokenizer
) -> FrozenReward:
    """A scorer trained from nothing."""
    torch.manual_seed(recipe.seed)
    reward = make_scorer(name, tokenizer).eval()
    first = reward
    if isinstance(reward, ImageReward):
        first = BlipScore(reward.blip, tokenizer, reward.preprocessing)
    elif isinstance(reward, Aesthetic):
        first = ClipScore(make_clip(tokenizer), tokenizer, reward.preprocessing).eval()
        reward.clip.vision_model = first.clip.vision_model
        reward.clip.visual_projection = first.clip.visual_projection
    contrast(first, recipe.contrast_steps, recipe.seed)
    if recipe.choice_steps:
        data = make_candidates(base, recipe.captions, recipe.seed)
        choose(reward, data, recipe)
        standardise(reward, data)
    return reward


@torch.no_grad()
def standardise(reward: FrozenReward, data: Candidates) -> None:
    """Give a head's scores on its training images the published scorer's mean and deviation."""
    if isinstance(reward, Aesthetic | ImageReward):
        aesthetic = isinstance(reward, Aesthetic)
        raw = score_all(reward, data) * (1 if aesthetic else STD) + (0 if aesthetic else MEAN)
        mean, std = (5.5, 1.0) if aesthetic else (MEAN, STD)
        last = reward.head.layers[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(std / raw.std())
        last.bias.sub_(raw.mean()).mul_(std / raw.std()).add_(mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="consistency pipeline folder")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="gets a folder a scorer")
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--effort", type=float, default=1.0, help="scales steps and captions")
    args = parser.parse_args()
    base = LatentConsistencyModelPipeline.from_pretrained(args.base, dtype=torch.float32)
    base.set_progress_bar_config(disable=True)
    tokenizer = CLIPTokenizer.from_pretrained(args.tokenizer)
    held_out = make_candidates(
        base, int(args.effort * EVALUATION_CAPTIONS), EVALUATION_SEED, unseen=True
    )
    for name in args.only:
        start = time.monotonic()
        recipe = scale(RECIPES[name], args.effort)
        save_scorer(train(name, recipe, base, tokenizer), tokenizer, args.output / name)
        scores = score_all(load_reward(name, args.output / name), held_out)
        generated = scores[:, :GENERATED], held_out.gold[:, :GENERATED]
        metrics = {
            "recipe": asdict(recipe),
            "accuracy_all_pairs": accuracy(scores, held_out.gold),
            "accuracy_generated_pairs": accuracy(*generated),
            "score_mean": scores.mean().item(),
            "score_std": scores.std().item(),
            "seconds": round(time.monotonic() - start),
        }
        write_json(args.output / name / "metrics.json", metrics)
        print(name, metrics, flush=True)


def scale(recipe: Recipe, effort: float) -> Recipe:
    """The recipe with its steps and captions multiplied."""
    names = ("contrast_steps", "choice_steps", "captions")
    return replace(recipe, **{name: int(effort * getattr(recipe, name)) for name in names})


if __name__ == "__main__":
    run(main)
