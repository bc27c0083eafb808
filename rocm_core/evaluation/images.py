"""Images from prompts: an image depends on weights, seed and prompt, not on its batch."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from tqdm import tqdm

from rocm_core.errors import UserError
from rocm_core.evaluation.job import kept, pick_device, write_job_manifest
from rocm_core.policies import Policy, Trajectory, load_lora, load_policy, merge_lora, scale_lora
from rocm_core.prompts import Prompt
from rocm_core.provenance import atomic_write, hash_inputs, sha256_file

if TYPE_CHECKING:  # the environment of the published scorers has no pydantic
    from rocm_core.configuration import GenerationSettings


@torch.no_grad()
def iterate_images(
    policy: Policy,
    prompts: Sequence[Prompt],
    seed: int,
    batch_size: int,
    reference: Literal["full"] | None = None,
) -> Iterator[tuple[Sequence[Prompt], torch.Tensor, Trajectory]]:
    """Batches of (prompts, images, trajectory): images `(N, 3, H, W)` in [0, 1], rounded to 8 bits.

    The noise of an image depends on (seed, prompt id) only. reference="full": the trajectory also
    knows its distance to the model without adapter, for as many NFE again. Raises `UserError` for
    an image that is not finite, which a file of 8 bits would show as black.
    """
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        embeddings = policy.encode_prompts([prompt.text for prompt in batch])
        noise = policy.noise(seed, [prompt.id for prompt in batch], "generation")
        # GPUs would otherwise convolve with ten bits, and choose how by the size of the batch.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            trajectory = policy.rollout(embeddings, noise, reference)
            images = policy.decode(trajectory.latents)
        for prompt, finite in zip(batch, images.isfinite().flatten(1).all(1).tolist(), strict=True):
            if not finite:
                raise UserError(f"the image of prompt {prompt.id} is not finite: check the weights")
        yield batch, (images * 255).round() / 255, trajectory


def generate(
    settings: GenerationSettings,
    prompts: Sequence[Prompt],
    lora: str | Path | None,
    output: str | Path,
    fingerprint: str,
    inputs: Iterable[str | Path] = (),
) -> None:
    """Write `<prompt id>.png` for every prompt, index.jsonl and manifest.json to folder `output`.

    lora: an adapter; None: the base model. inputs: the files of the prompts. Networks run in
    float32. The index comes after the last image and the manifest after the index: where a manifest
    stands, all is there. Images of an earlier run are removed first, or left as they are where this
    job would make them again. `seconds_per_image` in the manifest is the median over batches, after
    one to warm up, from text to pixels: what a user of the loaded model waits for.
    Raises `UserError` for weights that are missing or do not fit, and for an input or an adapter
    that is not the one that its manifest lists.
    """
    if not prompts:
        raise UserError("there are no prompts to generate images for")
    began, output = time.perf_counter(), Path(output)
    hashes = hash_inputs([*inputs, *([lora] if lora else [])])
    made: dict[str, Any] = dict(
        settings=settings.to_dict(), code=fingerprint, weights=settings.weights, inputs=hashes
    )
    if kept(output / "manifest.json", **made):
        return
    device = pick_device()
    policy = load_policy(settings, device)
    if lora is not None:
        load_lora(policy.network, lora, policy.denoiser.lora_name)
        scale_lora(policy.network, settings.lora_scale)
        merge_lora(policy.network)
    output.mkdir(parents=True, exist_ok=True)
    for old in [output / "manifest.json", output / "index.jsonl", *output.glob("*.png")]:
        old.unlink(missing_ok=True)
    files, paces, size = [], [], settings.batch_size
    next(iterate_images(policy, prompts[:size], settings.seed, size))
    policy.nfe = 0
    writing: Iterable[None] = ()
    with ThreadPoolExecutor(2) as pool, tqdm(total=len(prompts), unit="image", disable=None) as bar:
        _synchronise(device)
        asked = time.perf_counter()
        for batch, images, _ in iterate_images(policy, prompts, settings.seed, size):
            _synchronise(device)
            paces.append((time.perf_counter() - asked) / len(batch))
            list(writing)  # of the last batch, while this one was made; raises what went wrong
            paths = [output / f"{prompt.id}.png" for prompt in batch]
            writing = pool.map(save_png, images.cpu(), paths)
            files += paths
            bar.update(len(batch))
            asked = time.perf_counter()
        list(writing)
    # With their sha256: to Snakemake the index stands for the images, and must change with them.
    rows = [
        {"prompt_id": p.id, "text": p.text, "file": file.name, "sha256": sha256_file(file)}
        for p, file in zip(prompts, files, strict=True)
    ]
    files.append(output / "index.jsonl")
    with atomic_write(files[-1]) as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    write_job_manifest(
        output / "manifest.json",
        **made,
        outputs=files,
        began=began,
        extra={
            "resolution": policy.denoiser.resolution,
            "timesteps": policy.timesteps.tolist(),
            "nfe": policy.nfe,
            "seconds_per_image": statistics.median(paces),
            "threads": torch.get_num_threads(),
        },
    )


def _synchronise(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def save_png(image: torch.Tensor, path: Path) -> None:
    """Write one image `(3, H, W)` in [0, 1], rounded to 8 bits per channel."""
    from PIL import Image

    pixels = (image * 255).round().to("cpu", torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path)
