"""What the base scores on the prompts and the noise of a training: what its rewards are more than.

Rewards differ more between prompts than a training changes them, so that the curve of a training's
rewards follows the prompts that it happens to draw. Less the base's, they do not.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from rocm_core.algorithms import with_shared_start
from rocm_core.configuration import TrainingSettings
from rocm_core.errors import UserError
from rocm_core.grid import Standards
from rocm_core.prompts import Prompt
from rocm_core.provenance import hash_inputs, record_beside, write_csv, write_manifest
from rocm_core.training.trainer import Trainer

COLUMNS = ("step", "metric", "value")


@torch.no_grad()
def score_base(
    settings: Mapping[str, TrainingSettings],
    prompts: Sequence[Prompt],
    pairs: bool,
    output: Path,
    fingerprint: str,
    inputs: Iterable[str | Path] = (),
    standards: Standards | None = None,
) -> None:
    """Write `COLUMNS`: each reward's mean over the images of each iteration, and a manifest beside.

    settings: {reward: those of a training on it}, which differ in nothing else. pairs: two images
    each start from the same noise. inputs: the files that all this is made from. Raises `UserError`
    as `Trainer` does, and for a score that is not finite.
    """
    from accelerate import Accelerator

    began, hashes, accelerator = time.perf_counter(), hash_inputs(inputs), Accelerator()
    runs = {
        reward: Trainer(own, prompts, "", accelerator, standards=standards)
        for reward, own in settings.items()
    }
    first, rows = next(iter(runs.values())), []
    for step in tqdm(range(1, first.settings.iterations + 1), unit="iteration", disable=None):
        scores: dict[str, list[torch.Tensor]] = {reward: [] for reward in runs}
        for batch in first.batches(step)[1]:
            batch = with_shared_start(batch) if pairs else batch
            images = first.policy.decode(
                first.policy.rollout(batch.embeddings, batch.noise).latents
            )
            for reward, run in runs.items():
                run.reward.progress = (step - 1) / run.settings.iterations
                scores[reward].append(run.reward.score(images, batch.prompts).float())
        for reward, parts in scores.items():
            rows.append((step, reward, mean := float(torch.cat(parts).mean())))
            if not math.isfinite(mean):
                raise UserError(f"{reward} gives a score that is not finite: check its weights")
    write_csv(output, COLUMNS, rows)
    on_gpu = accelerator.device.type == "cuda"
    write_manifest(
        record_beside(output),
        settings={"pairs": pairs, "runs": {r: own.to_dict() for r, own in settings.items()}},
        code=fingerprint,
        weights=[*dict.fromkeys(w for own in settings.values() for w in own.weights)],
        inputs=hashes,
        outputs=[output],
        device=torch.cuda.get_device_name(accelerator.device) if on_gpu else "cpu",
        job_seconds=time.perf_counter() - began,
        extra={"nfe": first.policy.nfe},
    )
