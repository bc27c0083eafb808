"""How the base's images of the training prompts score: what a standardised score is relative to."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from rocm_core.errors import UserError
from rocm_core.evaluation.images import iterate_images
from rocm_core.evaluation.job import pick_device, plain_paths, write_job_manifest
from rocm_core.policies import load_policy
from rocm_core.prompts import Prompt
from rocm_core.provenance import hash_inputs, record_beside, write_json
from rocm_core.rewards import load_reward

if TYPE_CHECKING:
    from rocm_core.configuration import GenerationSettings


@torch.no_grad()
def measure_base(
    settings: GenerationSettings,
    scorers: Mapping[str, str | Path | None],
    prompts: Sequence[Prompt],
    output: Path,
    fingerprint: str,
    inputs: Iterable[Path] = (),
) -> None:
    """Write {"prompts": n, "scorers": {scorer: {"mean": …, "std": …}}} of the base's images, one
    per prompt, and a manifest beside it.

    scorers: {name: its weights, or None}, which score as they do in training. inputs: the files of
    the prompts. Raises `UserError` for scores that are not finite or do not vary.
    """
    began, hashes, device = time.perf_counter(), hash_inputs(inputs), pick_device()
    policy = load_policy(settings, device)
    rewards = {name: load_reward(name, path, device) for name, path in scorers.items()}
    scores: dict[str, list[torch.Tensor]] = {name: [] for name in rewards}
    with tqdm(total=len(prompts), unit="image", disable=None) as bar:
        for batch, images, _ in iterate_images(policy, prompts, settings.seed, settings.batch_size):
            for name, reward in rewards.items():
                scored = reward.score(images, [prompt.text for prompt in batch])
                scores[name].append(scored.double().cpu())
            bar.update(len(batch))
    measured = {}
    for name, parts in scores.items():
        values = torch.cat(parts)
        mean, std = float(values.mean()), float(values.std(correction=0))
        if not 0 < std < float("inf"):
            raise UserError(
                f"{name} cannot be standardised: over the base's images of {len(prompts)} prompts"
                f" its standard deviation is {std:g}; leave it out, or train on more prompts"
            )
        measured[name] = {"mean": mean, "std": std}
    write_json(output, {"prompts": len(prompts), "scorers": measured})
    write_job_manifest(
        record_beside(output),
        settings=settings.to_dict() | {"scorers": plain_paths(scorers)},
        code=fingerprint,
        weights=[*settings.weights, *filter(None, scorers.values())],
        inputs=hashes,
        outputs=[output],
        began=began,
        extra={"nfe": policy.nfe},
    )
