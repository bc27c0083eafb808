"""The training job: runs a `Trainer`, keeps its state safe, writes what comes out."""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rocm_core.algorithms import load_settings
from rocm_core.configuration import ProgressSettings, TrainingSettings
from rocm_core.errors import UserError
from rocm_core.grid import Standards, searched, settle, snapshot_steps
from rocm_core.jobs import (
    INTERRUPTED,
    Owner,
    Progress,
    StateFolder,
    StopRequest,
    whole_number,
)
from rocm_core.prompts import Prompt
from rocm_core.provenance import (
    CellFiles,
    atomic_write,
    hash_inputs,
    sha256_file,
    write_csv,
    write_manifest,
)
from rocm_core.rewards import FunctionReward, Score
from rocm_core.training.trainer import Row, Trainer

SAVE_SECONDS = 30.0
MOST_THREADS = 4096


def train(
    settings: TrainingSettings,
    prompts: Sequence[Prompt | str],
    output: str | Path,
    state: str | Path | None = None,
    fingerprint: str = "",
    stop_after: int | None = None,
    keep_state: bool = False,
    chosen: Mapping[str, Any] | None = None,
    inputs: Iterable[str | Path] = (),
    *,
    standards: Standards | None = None,
    reward: Score | None = None,
    on_step: Callable[[Row], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Train one cell: lora.safetensors, snapshots/, history.csv and manifest.json in `output`.

    settings: of an algorithm; a plain `TrainingSettings` leaves the algorithm its own defaults.
    prompts: texts, or prompts with ids. state: folder of the unfinished run, by default
    `<output>.state`; goes on from what is there. It is removed after success unless `keep_state`:
    then the same call writes the same results again, without training. fingerprint: names the code;
    a run does not go on under another one. chosen: values of the settings that were searched.
    inputs: the files of the prompts and of what was chosen or measured.

    standards: {scorer: {"mean": …, "std": …}} of the base's scores, for the scorers of an ensemble.
    reward: a function that gives scores (N,), the higher the better, of images (N, 3, H, W) in
    [0, 1] and their prompts, in place of the scorer that `settings.reward` names. on_step: is
    called with each new row of the history, in the first process. progress: what to show meanwhile;
    by default a line and the history so far every few seconds, and sample images by each snapshot,
    in the folder `<output>.run`.

    On SIGTERM, SIGUSR1, an approaching time limit or after `stop_after` iterations of this call it
    saves and raises SystemExit(3). Raises `UserError` for a reward, divergence or gradient that is
    not finite, or while another process owns `state`; `output` and the last state stay as they
    were.
    """
    from accelerate import Accelerator

    output = Path(output)
    state = Path(state or f"{output}.state")
    if type(settings) is TrainingSettings:
        settings = load_settings(settings.to_dict())
    known = [Prompt(str(i), p, "own") if isinstance(p, str) else p for i, p in enumerate(prompts)]
    specified, settings = settings, settle(settings, chosen or {})
    progress = progress or Progress(ProgressSettings(), Path(f"{output}.run"))
    if not prompts:
        raise UserError("there are no prompts to train on")
    hashes = hash_inputs(inputs)
    threads = whole_number("OMP_NUM_THREADS", MOST_THREADS)
    if threads := threads or whole_number("SLURM_CPUS_PER_TASK", MOST_THREADS):
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # Accelerate would not read a list
    try:
        accelerator = Accelerator()
    except ValueError as error:  # such as a LOCAL_RANK that is no number
        raise UserError(
            f"the environment says what Accelerate cannot use ({error}): unset its ACCELERATE_…,"
            " RANK, LOCAL_RANK and WORLD_SIZE"
        ) from None
    main = accelerator.is_main_process
    with StopRequest() as stop, contextlib.ExitStack() as stack:

        def give_up() -> None:
            if stop:
                raise SystemExit(INTERRUPTED)

        folder = StateFolder(state, give_up)
        if main:
            stack.enter_context(folder)
        accelerator.wait_for_everyone()
        own = FunctionReward(reward, settings.reward) if reward else None
        trainer = Trainer(settings, known, fingerprint, accelerator, own, standards)
        unfinished = CellFiles(state)
        snapshots = {step: unfinished.snapshot(step) for step in snapshot_steps(settings)}
        if newest := folder.newest():
            file, saved = newest
            trainer.load_state_dict(saved, file)
            if file.name != folder.file(trainer.step).name:
                raise UserError(f"{file} is of step {trainer.step}: give it its own name back")
            for step in filter(lambda step: step <= trainer.step, snapshots):
                _require_snapshot(snapshots[step], trainer.snapshots.get(step), state)

        if main:
            folder.note(step=trainer.step)
            begins = f"going on after step {trainer.step} of" if trainer.step else "training for"
            print(f"{begins} {settings.iterations} iterations", file=sys.stderr)
            run = folder.attempts()[0]["token"]
            progress.begin(settings, trainer.history, run, unfinished.snapshots)
            stack.callback(progress.close)
        first, saved_at = trainer.step + 1, time.monotonic()
        for step in range(first, settings.iterations + 1):
            row = trainer.iterate(step)
            if main:
                with folder.held():
                    progress.step(row)
            if main and on_step:
                on_step(row)
            done = step == settings.iterations
            wish = torch.tensor(float(bool(stop) or step - first + 1 == stop_after))
            leave = not done and bool(accelerator.reduce(wish.to(accelerator.device)))
            if main and step in snapshots:
                with folder.held():
                    trainer.export(snapshots[step])
                trainer.snapshots[step] = sha256_file(snapshots[step])
            due = step in snapshots or time.monotonic() - saved_at > SAVE_SECONDS
            if main and (done or leave or due):
                folder.save(step, trainer.state_dict())
                saved_at = time.monotonic()
            if main and step in snapshots and not leave and progress.settings.preview:
                images = trainer.preview(progress.settings.preview)
                with folder.held():
                    progress.preview(step, images)
            if leave:
                accelerator.wait_for_everyone()  # who leaves early takes the others with it
                raise SystemExit(INTERRUPTED)
        if main:
            attempts = folder.attempts()
            with folder.held():
                progress.close(finished=True)
                for step, path in snapshots.items():
                    _require_snapshot(path, trainer.snapshots[step], state)
                files = list(snapshots.values())
                _write_results(trainer, specified, output, files, attempts, hashes)
            if keep_state:
                folder.keep()
            else:
                folder.clear()
        accelerator.wait_for_everyone()
        accelerator.end_training()


def _require_snapshot(path: Path, sha256: str | None, state: Path) -> None:
    if not path.is_file() or sha256_file(path) != sha256:
        raise UserError(f"{path} is missing or changed: remove {state} to train from the start")


def _write_results(
    trainer: Trainer,
    specified: TrainingSettings,
    output: Path,
    snapshots: Sequence[Path],
    attempts: Sequence[Owner],
    inputs: Mapping[Path, str],
) -> None:
    settings, last, cell = trainer.settings, trainer.history[-1], CellFiles(output)
    files = [cell.lora, cell.history]
    trainer.export(cell.lora)
    write_csv(cell.history, last, [[row[name] for name in last] for row in trainer.history])
    shutil.rmtree(cell.snapshots, ignore_errors=True)
    cell.snapshots.mkdir()  # the workflow expects it, even empty
    for snapshot in snapshots:
        files.append(cell.snapshots / snapshot.name)
        with atomic_write(files[-1]) as file:
            file.write(snapshot.read_bytes())
    on_gpu = trainer.device.type == "cuda"
    processes = trainer.accelerator.num_processes
    write_manifest(
        cell.manifest,
        settings=specified.to_dict(),
        code=trainer.identity["fingerprint"],
        outputs=files,
        weights=settings.weights,
        inputs=inputs,
        device=torch.cuda.get_device_name(trainer.device) if on_gpu else "cpu",
        job_seconds=processes * sum(attempt["seconds"] for attempt in attempts),
        peak_memory_gib=last["peak_memory_gib"],
        attempts=len(attempts),
        extra={
            "resumed_after": [attempt.get("step") for attempt in attempts],
            "chosen": {key: getattr(settings, key) for key in searched(specified)},
            **{key: trainer.identity[key] for key in trainer.identity.keys() & {"standards"}},
            "beta": trainer.beta,
            "precision": str(trainer.precision).removeprefix("torch."),
            "squared_distance_floor": trainer.squared_distance_floor(),
            "activation_checkpointing": trainer.activation_checkpointing,
            "resolution": trainer.policy.denoiser.resolution,
            "timesteps": trainer.policy.timesteps.tolist(),
            "processes": processes,
            "trainable_parameters": sum(value.numel() for value in trainer.lora.values()),
            "reward_queries": last["reward_queries"],
            "nfe": last["nfe"],
        },
    )
