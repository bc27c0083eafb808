"""Images and scores of a training's snapshots, from the base to the last."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from rocm_core.errors import UserError
from rocm_core.evaluation.images import iterate_images, save_png
from rocm_core.evaluation.job import pick_device, plain_paths, write_job_manifest
from rocm_core.evaluation.scores import Sample, score, write_scores
from rocm_core.policies import Policy, load_lora, load_policy, scale_lora
from rocm_core.prompts import Prompt
from rocm_core.provenance import hash_inputs
from rocm_core.rewards import load_reward

if TYPE_CHECKING:  # the environment of the published scorers has no pydantic
    from rocm_core.configuration import GenerationSettings


@torch.no_grad()
def score_snapshots(
    settings: GenerationSettings,
    scorers: Mapping[str, str | Path | None],
    prompts: Sequence[Prompt],
    snapshots: Path,
) -> dict[int, dict[str, list[float]]]:
    """{step: {scorer: its score of the image of each prompt}} of a training's snapshots, of which
    step 0 is the base; no image is kept. Raises `UserError` as `evaluate_snapshots` does."""
    device = pick_device()
    policy = load_policy(settings, device)
    rewards = {name: load_reward(name, path, device) for name, path in scorers.items()}
    found: dict[int, dict[str, list[float]]] = {}
    for step, file in _files_of(snapshots, prompts).items():
        _take(policy, file, settings)
        found[step] = {name: [] for name in rewards}
        for batch, images, _ in iterate_images(policy, prompts, settings.seed, settings.batch_size):
            for name, reward in rewards.items():
                scores = reward.measure(images, [prompt.text for prompt in batch])
                if not scores.isfinite().all():
                    raise UserError(f"{name} gives a score that is not finite: check its weights")
                found[step][name] += scores.tolist()
    return found


def _files_of(snapshots: Path, prompts: Sequence[Prompt]) -> dict[int, Path | None]:
    """{step: its snapshot}; None for step 0, the base."""
    names = (re.fullmatch(r"step-(\d+)\.safetensors", file.name) for file in snapshots.glob("*"))
    steps = sorted(int(name[1]) for name in names if name)
    if not steps or not prompts:
        raise UserError(f"{snapshots} holds no snapshot to evaluate, or there is no prompt")
    return {0: None} | {step: snapshots / f"step-{step}.safetensors" for step in steps}


def _take(policy: Policy, snapshot: Path | None, settings: GenerationSettings) -> None:
    """Give a policy a snapshot's adapter, as strong as its images are to be made; None: leave it
    the base."""
    if snapshot:
        load_lora(policy.network, snapshot, policy.denoiser.lora_name)
        scale_lora(policy.network, settings.lora_scale)


def evaluate_snapshots(
    settings: GenerationSettings,
    scorers: Mapping[str, str | Path | None],
    prompts: Sequence[Prompt],
    snapshots: Path,
    output: Path,
    fingerprint: str,
    inputs: Iterable[Path] = (),
) -> None:
    """Generate and score images of a training's snapshots/step-<n>.safetensors; step 0 is the base.

    Writes output/step-<n>/<prompt id>.png, scores.csv (step, prompt_id, metric, value) and
    manifest.json. inputs: the files of the prompts. The metric `squared_distance` is
    Σ_k |mean_k - reference mean_k|²/std_k² along the sample's own trajectory; half of it is the KL
    divergence to the base in nats. Raises `UserError` as `score_folder` does, and where there is no
    snapshot or no prompt.
    """
    began = time.perf_counter()
    files = _files_of(snapshots, prompts)
    hashes = hash_inputs([*inputs, *filter(None, files.values())])
    (output / "manifest.json").unlink(missing_ok=True)
    for old in output.glob("step-*"):  # images of an earlier run, and of other steps
        shutil.rmtree(old)
    policy = load_policy(settings, pick_device())
    samples, rows = [], []
    for step, file in tqdm(files.items(), desc="generation", unit="snapshot", disable=None):
        _take(policy, file, settings)
        folder = output / f"step-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        for batch, images, trajectory in iterate_images(
            policy, prompts, settings.seed, settings.batch_size, "full" if step else None
        ):
            distances = torch.zeros(len(batch))
            if step:
                distances = trajectory.squared_distances().sum(1)
            for prompt, image, distance in zip(batch, images, distances.tolist(), strict=True):
                sample = Sample((str(step), prompt.id), prompt.text, folder / f"{prompt.id}.png")
                save_png(image, sample.file)
                samples.append(sample)
                rows.append((*sample.key, "squared_distance", distance))
    nfe = policy.nfe
    del policy
    rows += score(samples, scorers, settings.batch_size)
    write_scores(output / "scores.csv", ("step", "prompt_id"), rows)
    write_job_manifest(
        output / "manifest.json",
        settings=settings.to_dict() | {"scorers": plain_paths(scorers)},
        code=fingerprint,
        outputs=[output / "scores.csv", *(sample.file for sample in samples)],
        weights=[*settings.weights, *filter(None, scorers.values())],
        inputs=hashes,
        began=began,
        extra={"nfe": nfe},
    )
