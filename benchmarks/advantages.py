"""How well an advantage tells an image's own merit: `python -m benchmarks.advantages`.

Policy gradients under the settings of config/paper.yaml, on the models, prompts and scorers of the
embedded world. An image's merit is its reward less the mean over 64 images of its prompt, over
their standard deviation: what a perfect baseline would leave. The policy stays the base model;
DPOK's value function learns.
"""

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from rocm_core.algorithms import load_algorithm
from rocm_core.configuration import TrainingSettings
from rocm_core.grid import load_config, make_grid
from rocm_core.prompts import Prompt
from rocm_core.rewards import Reward, load_reward
from rocm_core.shapes.scenes import sample_captions
from rocm_core.training import Trainer

ROOT = Path(__file__).resolve().parents[1]
REWARDS = ("hpsv2", "pickscore", "clipscore", "aesthetic")
REFERENCES = 64  # images per prompt by which merit is judged


class _Keep(Reward):
    """Scores nothing and keeps the images."""

    name, differentiable = "keep", False

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.images.append(images)
        return images.new_zeros(len(images))


def paper_settings(method: str, **changes: Any) -> TrainingSettings:
    """A method's settings in config/paper.yaml, for the embedded world's base model.

    What the paper's grid searches is what it gives to all methods.
    """
    world, paper = (load_config(ROOT / f"config/{name}.yaml") for name in ("shapes", "paper"))
    cells = make_grid(paper)
    found = next(cell.settings for cell in cells if cell.name == f"hpsv2/{method}/seed-0")
    policy = world.policies[found.policy]
    own = {
        "learning_rate": paper.training["learning_rate"],
        "lora_rank": paper.training["lora_rank"],
        "model": policy.model,
        "scorer": world.scorers["hpsv2"],
        "inference_steps": policy.steps,
        "guidance_scale": policy.guidance_scale,
        "resolution": world.resolution,
    }
    return found.model_copy(update=own | changes)


def correlations(
    settings: TrainingSettings, iterations: int, last: int | None = None
) -> dict[str, float]:
    """{reward: correlation of advantage and merit} over the images of the `last` iterations."""
    images = iterations * settings.batch_size * settings.accumulation_steps
    texts = sample_captions(min(images, 4000), seed=1)  # as many as the paper has
    prompts = [Prompt(f"{i}", text, "shapes") for i, text in enumerate(texts)]
    trainer = Trainer(settings, prompts, "", Accelerator())
    policy = trainer.policy
    scorers = {name: _scorer(name) for name in REWARDS}
    algorithms = {name: load_algorithm(settings) for name in REWARDS}
    kept: dict[str, list[tuple[str, float, float]]] = {name: [] for name in REWARDS}
    for step in range(1, iterations + 1):
        keep = _Keep()
        _, batches = trainer.batches(step)
        samples = [algorithms[REWARDS[0]].sample(policy, keep, batch) for batch in batches]
        for name, scorer in scorers.items():
            scored = [
                dataclasses.replace(sample, reward=scorer.score(images, sample.batch.prompts))
                for sample, images in zip(samples, keep.images, strict=True)
            ]
            found, _ = algorithms[name].advantages(scored, trainer.optimiser)
            if step <= iterations - (last or iterations):
                continue
            for sample, advantage in zip(scored, found, strict=True):
                means = advantage.mean(1).tolist()
                kept[name] += zip(sample.batch.prompts, sample.reward.tolist(), means, strict=True)
    seen = list(dict.fromkeys(text for text, *_ in kept[REWARDS[0]]))
    references = {text: _references(trainer, text, scorers) for text in seen}
    result = {}
    for name, rows in kept.items():
        merits = [
            (reward - references[text][name].mean()) / references[text][name].std()
            for text, reward, _ in rows
        ]
        result[name] = float(np.corrcoef([advantage for *_, advantage in rows], merits)[0, 1])
    return result


@functools.cache
def _scorer(name: str) -> Reward:
    weights = load_config(ROOT / "config/shapes.yaml").scorers[name]
    return load_reward(name, weights and Path(weights), "cpu")


@torch.no_grad()
def _references(trainer: Trainer, text: str, scorers: dict[str, Reward]) -> dict[str, np.ndarray]:
    """{reward: scores} of `REFERENCES` images of a prompt by the policy as it is."""
    policy, texts = trainer.policy, [text] * REFERENCES
    place = next(i for i, prompt in enumerate(trainer.prompts) if prompt.text == text)
    embeddings = {k: v[[place] * REFERENCES] for k, v in trainer.embeddings.items()}
    noise = policy.noise(0, [f"{text} {i}" for i in range(REFERENCES)], "merit")
    images = policy.decode(policy.rollout(embeddings, noise).latents)
    return {name: scorer.score(images, texts).numpy() for name, scorer in scorers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=8, help="of which images are judged")
    parser.add_argument("--learning", type=int, default=625, help="iterations of DPOK before them")
    chosen = parser.parse_args()
    merged = {"batch_size": 16, "accumulation_steps": 1, "updates_per_iteration": 1}
    for method in ("rlcm", "ddpo"):
        for images in (16, 8, 1):
            own = {"images_per_prompt": images, "prompt_buffer_minimum": max(images, 2)}
            found = correlations(paper_settings(method, **merged | own), chosen.iterations)
            _show(f"{method}, {images} of a prompt", found)
    last = chosen.learning + chosen.iterations
    _show("dpok", correlations(paper_settings("dpok", **merged), last, chosen.iterations))


def _show(label: str, found: dict[str, float]) -> None:
    print(label, *(f"{name} {value:.2f}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
