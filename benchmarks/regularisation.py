"""What regularisation does at the paper's settings: `python -m benchmarks.regularisation`.

Trains the cells of benchmarks/regularisation.yaml in the embedded world: without a divergence, and
for each one the trials of its search from several seeds, the β that they choose, and a controller
of β. Models are judged on the validation prompts, with the noise that the workflow
gives them. The search is the workflow's; a trial is the beginning of the longer training, which
goes on from it. What is in --folder, of the same settings and code, is kept, so that a run can be
stopped and started again.
Writes benchmarks/results/regularisation-cpu.json.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator

from benchmarks.compare import RESULTS, ROOT, describe
from rocm_core.analysis import Trained, choose, paired_difference
from rocm_core.configuration import BetaTarget, Config, TrainingSettings
from rocm_core.evaluation.scores import write_scores
from rocm_core.grid import Artefacts, load_config, training_code, trials_of
from rocm_core.policies import Policy, load_policy
from rocm_core.prompts import Prompt, make_prompts
from rocm_core.provenance import CSV_OPTIONS, atomic_write, digest_of, write_csv, write_json
from rocm_core.rewards import Reward, load_reward
from rocm_core.training import Trainer

CONFIG = Path(__file__).with_suffix(".yaml")
REWARD = "aesthetic"
DISTANCE = "squared_distance"
# D over KL's where d² is small; Fisher's on this chain, measured in a training with KL.
SCALES = {"rocm-kl": 1.0, "rocm-js": 0.25, "rocm-hellinger": 0.25, "rocm-fisher": 5.0}
SAVE_SECONDS = 60.0
TARGET, START = 0.003, 30.0  # of the controller, for KL


class Judge:
    """Scores of a policy's images of prompts by every metric, and their d² to the reference."""

    def __init__(self, config: Config, settings: TrainingSettings, prompts: list[Prompt]) -> None:
        self.prompts, self.seed = prompts, config.generation.seed
        self.batch_size = config.generation.batch_size
        self.scorers: dict[str, Reward] = {
            name: load_reward(name, path and Path(path), "cpu")
            for name, path in config.scorer_paths().items()
        }
        texts = [prompt.text for prompt in prompts]
        self.embeddings = {
            name: part.detach()
            for name, part in load_policy(settings, "cpu").encode_prompts(texts).items()
        }

    @torch.no_grad()
    def write(self, policy: Policy, path: Path, every: int) -> None:
        """One row per metric and prompt of `every`; in a file beside it d², summed over steps, per
        latent dimension."""
        rows: list[tuple] = []
        distances: list[tuple] = []
        for start in range(0, len(self.prompts), self.batch_size):
            part = slice(start, start + self.batch_size, every)
            ids, texts = zip(*((p.id, p.text) for p in self.prompts[part]), strict=True)
            noise = policy.noise(self.seed, ids, "generation")
            embeddings = {name: values[part] for name, values in self.embeddings.items()}
            trajectory = policy.rollout(embeddings, noise, "full")
            images = (policy.decode(trajectory.latents) * 255).round() / 255
            columns = {name: one.measure(images, texts) for name, one in self.scorers.items()}
            for metric, values in columns.items():
                rows += zip(ids, [metric] * len(ids), values.tolist(), strict=True)
            squared = trajectory.squared_distances("mean").sum(1).tolist()
            distances += zip(ids, [DISTANCE] * len(ids), squared, strict=True)
        write_scores(distances_of(path), ("prompt_id",), distances)
        write_scores(path, ("prompt_id",), rows)


def distances_of(scores: Path) -> Path:
    """The file of the d² of the images that scores are of."""
    return scores.with_suffix(".distances.csv")


class Trainings:
    """Trainings in a folder each, as long as somebody asks; what is there goes on."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.cells = Artefacts(config).cells
        self.accelerator = Accelerator(cpu=True)
        self.prompts = make_prompts(config.prompts["train"], [])
        self.judges: dict[str, Judge] = {}

    @property
    def base(self) -> Path:
        """Scores of the base model that the cells start from."""
        return self.scores("base", self.cell("rocm-none"), 0)

    def cell(self, method: str) -> TrainingSettings:
        """The settings of a cell, with what is to be searched."""
        return self.cells[f"{REWARD}/{method}/seed-0"].settings

    def judge(self, settings: TrainingSettings) -> Judge:
        """Of the validation prompts, for the policies on a base model."""
        if settings.model not in self.judges:
            prompts = make_prompts(self.config.prompts["validation"], self.prompts)
            self.judges[settings.model] = Judge(self.config, settings, prompts)
        return self.judges[settings.model]

    def scores(self, name: str, settings: TrainingSettings, step: int, every: int = 1) -> Path:
        """Scores on every prompt, or every second, of a training after `step` iterations, of which
        a history.csv tells."""
        code = training_code(settings)
        made = digest_of({"settings": json.dumps(settings.to_dict()), "code": code})[:12]
        path = self.folder / name / made / f"step-{step}.csv"
        if not path.exists():
            state, saved = path.with_name("state.pt"), time.monotonic()
            trainer = Trainer(settings, self.prompts, code, self.accelerator)
            if state.exists():
                trainer.load_state_dict(torch.load(state, weights_only=False))
            assert trainer.step <= step, f"{state} has gone on: remove {path.parent}"
            for number in range(trainer.step + 1, step + 1):
                trainer.iterate(number)
                if number == step or time.monotonic() - saved > SAVE_SECONDS:
                    with atomic_write(state) as file:
                        torch.save(trainer.state_dict(), file)
                    saved = time.monotonic()
            if rows := trainer.history:
                write_csv(path.with_name("history.csv"), rows[0], [row.values() for row in rows])
            self.judge(settings).write(trainer.policy, path, every)
            print(name, step, flush=True)
        return path


def search(trainings: Trainings, method: str, seed: int) -> dict[str, Any]:
    """The choice of a method's β by trials from a seed."""
    trials = []
    for cell in trials_of(trainings.cells.values(), REWARD, method):
        settings = trainings.cell(method).model_copy(
            update={"beta": cell.settings.beta, "seed": seed}
        )
        name = f"{method}-{settings.beta:g}/seed-{seed}"
        # On those prompts that choose.
        scores = trainings.scores(name, settings, cell.settings.iterations, every=2)
        trials.append(({"beta": settings.beta}, scores))
    return choose(Trained(REWARD), trials, trainings.base)


def measured(trainings: Trainings, name: str, settings: TrainingSettings) -> dict[str, Any]:
    """What a training came to: its gain and d², and D and β over the last 16 updates."""
    path = trainings.scores(name, settings, settings.iterations)
    after, before, distances = (
        pd.read_csv(file, **CSV_OPTIONS).pivot(index="prompt_id", columns="metric", values="value")
        for file in (path, trainings.base, distances_of(path))
    )
    gain = paired_difference(after[REWARD], before[REWARD])
    last = pd.read_csv(path.with_name("history.csv")).tail(16)
    return {
        "gain": gain.mean,
        "interval": [gain.low, gain.high],
        DISTANCE: float(distances[DISTANCE].mean()),
        "divergence": float(last["divergence"].mean()),
        "beta": float(last["beta"].iloc[-1]) if "beta" in last else settings.beta,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "results/regularisation/benchmark")
    parser.add_argument("--output", type=Path, default=RESULTS / "regularisation-cpu.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of each search")
    args = parser.parse_args()
    torch.set_num_threads(1)
    trainings = Trainings(load_config(CONFIG), args.folder)
    record = describe("cpu") | {"config": CONFIG.name, "searches": {}, "cells": {}}

    def measure(name: str, settings: TrainingSettings) -> None:
        record["cells"][name] = measured(trainings, name, settings)
        print(name, record["cells"][name], flush=True)
        write_json(args.output, record)

    measure("rocm-none/seed-0", trainings.cell("rocm-none"))
    for method, scale in SCALES.items():
        for seed in args.seeds:
            choice = record["searches"][f"{method}/seed-{seed}"] = search(trainings, method, seed)
            print(method, seed, choice, flush=True)
        settings = trainings.cell(method)
        beta = record["searches"][f"{method}/seed-{args.seeds[0]}"]["chosen"]["beta"]
        measure(f"{method}-{beta:g}/seed-0", settings.model_copy(update={"beta": beta}))
        target = BetaTarget(target=TARGET * scale, start=START / scale)
        measure(f"{method}-target/seed-0", settings.model_copy(update={"beta": target}))


if __name__ == "__main__":
    main()
