"""Train every algorithm for a few iterations, and keep what each process holds: a script that
`rocm_core.commands.launch` starts, and a module that a test compares it with."""

import sys
from pathlib import Path
from typing import Any

import tiny
import torch
from accelerate import Accelerator

import rocm_core.training.trainer
from rocm_core.training import Trainer

# Adam's epsilon is large, so that an update is a smooth function of the gradient: with 1e-8 the
# rounding of a gradient that should be zero would decide about a whole learning rate.
SHARED = {"accumulation_steps": 2, "adam_epsilon": 1e-3, "reduction": "mean", "batch_size": 2}
CASES: dict[str, dict[str, Any]] = {
    "direct": {"divergence": "kl", "beta": 0.1},
    "ppo": {
        "ratio_clip": 0.5,
        "updates_per_iteration": 2,
        "inner_epochs": 2,
        "images_per_prompt": 4,  # of two processes, or of two batches
        "prompt_buffer": 3,  # runs over at each iteration, so that the order matters
        "prompt_buffer_minimum": 2,
    },
    # V's own Adam has a small epsilon: it may learn little of the rounding of its gradient, and the
    # adapter little of V's.
    "dpok": {"divergence": "kl", "beta": 0.1, "ratio_clip": 0.5}
    | {"value_learning_rate": 1e-5, "adam_epsilon": 3e-2},
    "d3po": {"divergence": "kl", "beta": 1.0, "ratio_clip": 1e3, "images_per_prompt": 2},
    "grpo": {"divergence": "kl", "beta": 0.1, "ratio_clip": 0.5, "images_per_prompt": 8}
    # A prompt's images are those of both processes and both batches.
    | {"inner_epochs": 2, "adam_epsilon": 3e-2},
    "hybrid": {"ratio_clip": 0.5, "images_per_prompt": 4, "inner_epochs": 2},
    "rebel": {"eta": 0.5, "images_per_prompt": 2, "inner_epochs": 2, "prompt_buffer": 0},
    "direct, truncated at random": {"algorithm": "direct", "truncate": [1, 3]},
    "direct, low variance": {"algorithm": "direct", "truncate": "last", "low_variance": 2},
}


def run(algorithm: str, model: str, **changes: Any) -> dict[str, Any]:
    """Adapter, averaged gradients, rows and the algorithm's own state after four iterations."""
    values = {"algorithm": algorithm, **SHARED, **CASES[algorithm], "model": model, **changes}
    trainer = Trainer(tiny.settings(**values), tiny.PROMPTS[:2], "f00d", Accelerator())
    gradients: list[torch.Tensor] = []
    average = trainer.optimiser.average_gradients

    def note(parameters: list[torch.nn.Parameter]) -> None:
        average(parameters)
        if parameters is trainer.optimiser.parameters:
            gradients.append(
                torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
            )

    trainer.optimiser.average_gradients = note
    start = torch.cat([value.detach().flatten() for value in trainer.lora.values()])
    rows = [trainer.iterate(step) for step in (1, 2, 3, 4)]
    lora = torch.cat([value.detach().flatten() for value in trainer.lora.values()])
    own = trainer.algorithm.state_dict()
    moved = (lora - start).norm()
    found = {"lora": lora, "moved": moved, "gradients": torch.stack(gradients)}
    return found | {"rows": rows, "state": own}


def main(model: str, output: str) -> None:
    rocm_core.training.trainer.load_reward = lambda *_: tiny.Brightness()
    found = {algorithm: run(algorithm, model) for algorithm in CASES}
    process = Accelerator().process_index
    torch.save(found, Path(output) / f"process-{process}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
