"""Train the shapes world's six scorers: ``python -m rocm_core.recipes.scorers``.

Each repeats its published model's training at a tiny size, on renderings, images, noise and a seed
of its own: contrastive learning on captioned renderings (``clipscore``, ``blipscore``), and from
there, for ``hpsv2``, ``pickscore``, ``imagereward`` and ``aesthetic`` (which sees no prompt),
Bradley–Terry learning of noisy choices between two images, made by the gold judge. Nothing is done
to make them more or less robust: they are as imperfect as small networks trained on few noisy
choices, and ``metrics.json`` in each folder records their accuracy.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import LatentConsistencyModelPipeline
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTokenizer

from rocm_core.errors import UserError
from rocm_core.provenance import write_json
from rocm_core.recipes.architectures import make_clip, make_scorer, save_scorer
from rocm_core.recipes.steps import run_recipe, take_step
from rocm_core.rewards import (
    Reward,
    aesthetic,
    blipscore,
    clipscore,
    hpsv2,
    imagereward,
    load_reward,
)
from rocm_core.rewards.frozen import FrozenReward
from rocm_core.shapes.judge import judge
from rocm_core.shapes.scenes import (
    Scenes,
    describe,
    draw_scenes,
    parse,
    render,
    sample_captions,
    training_scenes,
)


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
        logits = (
            scale.exp()
            * nn.functional.normalize(image, dim=-1)
            @ nn.functional.normalize(text, dim=-1).T
        )
        loss = (
            nn.functional.cross_entropy(logits, target)
            + nn.functional.cross_entropy(logits.T, target)
        ) / 2
        take_step(loss, optimizer, schedule)


def choose(reward: FrozenReward, data: Candidates, recipe: Recipe) -> None:
    """Bradley–Terry: the score difference is the log odds of a noisy choice between two images."""
    g = torch.Generator().manual_seed(recipe.seed + 1)
    optimizer = torch.optim.AdamW(reward.parameters(), lr=4e-4, weight_decay=0.05, fused=True)
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
        if isinstance(reward, hpsv2.HPSv2):
            scores = reward.clip.logit_scale.exp() * scores
        first, second = scores.chunk(2)
        loss = nn.functional.binary_cross_entropy_with_logits(first - second, label)
        take_step(loss, optimizer, schedule)


def train(
    name: str, recipe: Recipe, base: Callable[..., Any], tokenizer: CLIPTokenizer
) -> FrozenReward:
    """A scorer trained from nothing."""
    torch.manual_seed(recipe.seed)
    reward = make_scorer(name, tokenizer).eval()
    first = reward
    if isinstance(reward, imagereward.ImageReward):
        first = blipscore.BlipScore(reward.blip, tokenizer, reward.preprocessing)
    elif isinstance(reward, aesthetic.Aesthetic):
        first = clipscore.ClipScore(make_clip(tokenizer), tokenizer, reward.preprocessing).eval()
        reward.clip.vision_model = first.clip.vision_model
        reward.clip.visual_projection = first.clip.visual_projection
    contrast(first, recipe.contrast_steps, recipe.seed)
    if recipe.choice_steps:
        data = make_candidates(base, recipe.captions, recipe.seed)
        choose(reward, data, recipe)
        standardise(reward, data)
    return reward


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


@torch.no_grad()
def standardise(reward: FrozenReward, data: Candidates) -> None:
    """Give a head's scores on its training images the published scorer's mean and deviation."""
    if isinstance(reward, aesthetic.Aesthetic | imagereward.ImageReward):
        plain = isinstance(reward, aesthetic.Aesthetic)
        raw = score_all(reward, data) * (1 if plain else imagereward.STD) + (
            0 if plain else imagereward.MEAN
        )
        mean, std = (5.5, 1.0) if plain else (imagereward.MEAN, imagereward.STD)
        last = reward.head.layers[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(std / raw.std())
        last.bias.sub_(raw.mean()).mul_(std / raw.std()).add_(mean)


def main(
    base: Path,
    tokenizer: Path,
    output: Path,
    only: tuple[str, ...] = tuple(RECIPES),
    effort: float = 1.0,
) -> None:
    """base: consistency pipeline folder. output: gets one folder per scorer. effort: scales steps
    and captions."""
    if unknown := set(only) - RECIPES.keys():
        raise UserError(f"--only: no recipe for {', '.join(unknown)}, only {', '.join(RECIPES)}")
    pipeline = LatentConsistencyModelPipeline.from_pretrained(base, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    words = CLIPTokenizer.from_pretrained(tokenizer)
    count = int(effort * EVALUATION_CAPTIONS)
    held_out = make_candidates(pipeline, count, EVALUATION_SEED, unseen=True)
    for name in only:
        start, recipe = time.monotonic(), scale(RECIPES[name], effort)
        save_scorer(train(name, recipe, pipeline, words), words, output / name)
        scores = score_all(load_reward(name, output / name), held_out)
        generated = scores[:, :GENERATED], held_out.gold[:, :GENERATED]
        metrics = {
            "recipe": asdict(recipe),
            "accuracy_all_pairs": accuracy(scores, held_out.gold),
            "accuracy_generated_pairs": accuracy(*generated),
            "score_mean": scores.mean().item(),
            "score_std": scores.std().item(),
            "seconds": round(time.monotonic() - start),
        }
        write_json(output / name / "metrics.json", metrics)
        print(name, metrics, flush=True)


def scale(recipe: Recipe, effort: float) -> Recipe:
    """The recipe with its steps and captions multiplied."""
    names = ("contrast_steps", "choice_steps", "captions")
    return replace(recipe, **{name: int(effort * getattr(recipe, name)) for name in names})


if __name__ == "__main__":
    run_recipe(main)
