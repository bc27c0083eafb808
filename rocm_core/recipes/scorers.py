"""Train the shapes world's six scorers: ``python -m rocm_core.recipes.scorers``.

Each repeats its published model's training at a tiny size, on renderings, choices and a seed of its
own: contrastive learning on captioned renderings (``clipscore``, ``blipscore``), and from there,
for ``hpsv2``, ``pickscore``, ``imagereward`` and ``aesthetic`` (which sees no prompt),
Bradley–Terry learning of the gold judge's noisy choices between two images of a caption: at first
images of the bases, then, in a fixed number of rounds, images of policies that ROCM and RLCM train
on the scorer as it is, as the field collects preferences on its own models. Nothing else is done to
make them more or less robust. ``metrics.json`` in each folder records what they are worth.
"""

import functools
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTokenizer

from rocm_core.errors import UserError
from rocm_core.provenance import write_json
from rocm_core.recipes.architectures import make_clip, make_scorer, save_scorer
from rocm_core.recipes.choices import (
    Candidates,
    base_candidates,
    candidates_along,
    training_settings,
)
from rocm_core.recipes.steps import kept, run_recipe, take_step
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
from rocm_core.shapes.scenes import describe, render, sample_captions, training_scenes


@dataclass(frozen=True)
class Recipe:
    """How one scorer learns.

    A simulated rater prefers an image with odds exp(gold difference / ``temperature``) : 1, and
    chooses at random in a share ``slips`` of all cases. ``round_steps`` follow each round.
    """

    seed: int
    contrast_steps: int
    choice_steps: int = 0
    round_steps: int = 0
    temperature: float = 0.1
    slips: float = 0.1


CHOICES = {"choice_steps": 160, "round_steps": 100}
RECIPES = {
    "clipscore": Recipe(seed=101, contrast_steps=320),
    "blipscore": Recipe(seed=102, contrast_steps=320),
    "hpsv2": Recipe(seed=103, contrast_steps=210, **CHOICES),
    "pickscore": Recipe(seed=104, contrast_steps=210, temperature=0.15, **CHOICES),
    "imagereward": Recipe(seed=105, contrast_steps=210, slips=0.15, **CHOICES),
    "aesthetic": Recipe(seed=106, contrast_steps=140, **CHOICES),
}
RENDERINGS = 16_384  # of the contrastive stage, nearly all of different captions
BATCH = 128
ROWS, PER_ROW = 24, 4  # captions, and images of each, in a batch of choices
DIFFERENT = 0.05  # gold difference from which a pair counts in the accuracy

ROUNDS = 2
ROUND_CAPTIONS = 40  # whose images are chosen between
STAGES = 3  # of each training at which they are made
PROMPTS = 512  # that the policies are trained on
# The trainings' own settings beside those of `training_settings`.
ON_POLICY: dict[str, dict[str, Any]] = {
    "direct": {"batch_size": 8, "iterations": 48, "learning_rate": 1e-4},
    "ppo": {
        "batch_size": 16,
        "images_per_prompt": 4,
        "iterations": 30,
        "learning_rate": 1e-3,
        "prompt_buffer_minimum": 4,
        "ratio_clip": 1e-2,
        "reduction": "mean",
    },
}
# The training whose gain of gold is recorded, with a β in units of the scorer's deviation.
SHORT = ON_POLICY["direct"] | {"iterations": 32, "divergence": "kl"}
SHORT_BETA = 0.01
EVALUATION_SEED, EVALUATION_CAPTIONS = 100, 200


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


def choices_of(gold: Tensor, recipe: Recipe, g: torch.Generator) -> Tensor:
    """A rater's choices (N, C, C) between images with gold scores (N, C): 1 where the first is
    preferred, 0 where the second is; each pair is seen once."""
    odds = (gold[:, :, None] - gold[:, None]) / recipe.temperature
    chosen = torch.rand(odds.shape, generator=g) < odds.sigmoid()
    slips = torch.rand(odds.shape, generator=g) < recipe.slips
    chosen = torch.where(slips, torch.rand(odds.shape, generator=g) < 0.5, chosen)
    above = chosen.float().triu(1)
    return above + (1 - above.mT).tril(-1)


def choose(
    reward: FrozenReward, rounds: Sequence[Candidates], steps: int, recipe: Recipe, seed: int
) -> None:
    """Bradley–Terry: the score difference is the log odds of a noisy choice between two images.

    Batches are from the first candidates and from any of the others in turn.
    """
    choices = [
        choices_of(data.gold, recipe, torch.Generator().manual_seed(recipe.seed + place))
        for place, data in enumerate(rounds)
    ]
    g = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(reward.parameters(), lr=4e-4, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-4, steps, pct_start=0.1)
    first, second = torch.combinations(torch.arange(PER_ROW)).T
    for step in tqdm(range(steps), desc="choices", disable=None):
        later = len(rounds) > 1 and step % 2 == 1
        place = int(torch.randint(1, len(rounds), (), generator=g)) if later else 0
        data = rounds[place]
        rows = torch.randint(len(data.captions), (ROWS, 1), generator=g)
        columns = torch.rand(ROWS, data.gold.shape[1], generator=g).argsort(1)[:, :PER_ROW]
        pixels = reward.preprocessing(data.images[rows, columns].flatten(0, 1) / 255)
        texts = reward.encode_texts([data.captions[row] for row in rows.flatten()])
        scores = reward.compare(reward.encode_images(pixels), texts.repeat_interleave(PER_ROW, 0))
        if isinstance(reward, hpsv2.HPSv2):
            scores = reward.clip.logit_scale.exp() * scores
        scores = scores.view(ROWS, PER_ROW)
        wanted = choices[place][rows, columns[:, first], columns[:, second]]
        loss = nn.functional.binary_cross_entropy_with_logits(
            scores[:, first] - scores[:, second], wanted
        )
        take_step(loss, optimizer, schedule)


def train(
    name: str, recipe: Recipe, world: Path, base: Candidates, tokenizer: CLIPTokenizer, state: Path
) -> FrozenReward:
    """A scorer trained from nothing; goes on after the last stage in ``state``."""
    torch.manual_seed(recipe.seed)
    reward = make_scorer(name, tokenizer).eval()
    first = reward
    if isinstance(reward, imagereward.ImageReward):
        first = blipscore.BlipScore(reward.blip, tokenizer, reward.preprocessing)
    elif isinstance(reward, aesthetic.Aesthetic):
        first = clipscore.ClipScore(make_clip(tokenizer), tokenizer, reward.preprocessing).eval()
        reward.clip.vision_model = first.clip.vision_model
        reward.clip.visual_projection = first.clip.visual_projection

    def stage(what: str, work: Callable[..., None], *arguments: Any) -> None:
        def make() -> dict[str, Tensor]:
            began = time.monotonic()
            work(*arguments)
            print(f"{name}, {what}: {time.monotonic() - began:.0f} s", flush=True)
            return reward.state_dict()

        reward.load_state_dict(kept(state / f"{what}.pt", make))

    stage("contrast", contrast, first, recipe.contrast_steps, recipe.seed)
    if recipe.choice_steps:
        rounds = [base]
        stage("choices", choose, reward, rounds, recipe.choice_steps, recipe, recipe.seed + 1)
        for number in range(ROUNDS):
            seed = 1000 * (number + 1) + recipe.seed
            save_scorer(reward, tokenizer, state / "scorer")
            collect = functools.partial(on_policy, name, state / "scorer", world, seed)
            rounds.append(Candidates(**kept(state / f"candidates-{number}.pt", collect)))
            stage(f"round-{number}", choose, reward, rounds, recipe.round_steps, recipe, seed)
        standardise(reward, base)
    return reward


def on_policy(name: str, scorer: Path, world: Path, seed: int) -> dict[str, Any]:
    """Candidates, as a dictionary, of a few captions along trainings on the scorer by ROCM and by
    RLCM, their start included."""
    prompts = sample_captions(PROMPTS, seed)
    captions = prompts[:ROUND_CAPTIONS]
    parts: list[Candidates] = []
    for algorithm, values in ON_POLICY.items():
        settings = training_settings(
            world,
            "consistency",
            algorithm=algorithm,
            reward=name,
            scorer=str(scorer),
            seed=seed,
            **values,
        )
        looks = [settings.iterations * stage // STAGES for stage in range(1, STAGES + 1)]
        start = [] if parts else [0]
        parts.append(candidates_along(settings, prompts, captions, [*start, *looks]))
    images, gold = (torch.cat([getattr(p, k) for p in parts], 1) for k in ("images", "gold"))
    print(f"{name}, gold along ROCM and RLCM: {gold.mean(0).tolist()}", flush=True)
    return {"captions": captions, "images": images, "gold": gold}


@torch.no_grad()
def score_all(reward: Reward, data: Candidates) -> Tensor:
    """Scores (N, C) of candidates."""
    columns = (reward.score(images / 255, data.captions) for images in data.images.unbind(1))
    return torch.stack(list(columns), 1)


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


def gold_gained(name: str, scorer: Path, world: Path, beta: float) -> dict[str, float]:
    """Gold on held-out captions that a short regularised training on a scorer gains."""
    settings = training_settings(
        world, "consistency", reward=name, scorer=str(scorer), beta=beta, **SHORT
    )
    captions = sample_captions(EVALUATION_CAPTIONS, EVALUATION_SEED, unseen=True)
    looks = (0, settings.iterations)
    gold = candidates_along(settings, sample_captions(PROMPTS, 1), captions, looks).gold
    gained = gold[:, 1] - gold[:, 0]
    return {
        "beta": beta,
        "mean": gained.mean().item(),
        "standard_error": (gained.std() / len(gained) ** 0.5).item(),
    }


def main(
    world: Path,
    candidates: Path,
    tokenizer: Path,
    output: Path,
    state: Path,
    only: tuple[str, ...] = tuple(RECIPES),
    repetition: int = 0,
) -> None:
    """world: holds both pipeline folders. candidates: of the choices recipe. output: gets a folder
    for each scorer. state: folder of an interrupted run to go on from. repetition: of the training,
    with other seeds."""
    if unknown := set(only) - RECIPES.keys():
        raise UserError(f"--only: no recipe for {', '.join(unknown)}, only {', '.join(RECIPES)}")
    words = CLIPTokenizer.from_pretrained(tokenizer)
    base = Candidates(**torch.load(candidates, weights_only=True))
    held_out = base_candidates(world, EVALUATION_CAPTIONS, EVALUATION_SEED, unseen=True)
    for name in only:
        began = time.process_time()
        recipe = replace(RECIPES[name], seed=RECIPES[name].seed + 10_000 * repetition)
        reward = train(name, recipe, world, base, words, state / name)
        save_scorer(reward, words, output / name)
        scores = score_all(load_reward(name, output / name), held_out)
        deviation = scores.std().item()
        metrics = {
            "recipe": asdict(recipe),
            "accuracy": accuracy(scores, held_out.gold),
            "score_mean": scores.mean().item(),
            "score_std": deviation,
            "gold_gained": gold_gained(name, output / name, world, SHORT_BETA * deviation),
            "seconds": round(time.process_time() - began),
        }
        write_json(output / name / "metrics.json", metrics)
        print(name, metrics, flush=True)
        shutil.rmtree(state / name)


if __name__ == "__main__":
    run_recipe(main)
