"""What the recipes share: the command line, a training that can go on, and a moving average."""

import argparse
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rocm_core.errors import run
from rocm_core.jobs import INTERRUPTED, StateFolder, StopRequest
from rocm_core.provenance import atomic_write

SAVE_EVERY = 50  # steps


def run_recipe(main: Callable[..., None]) -> NoReturn:
    """Call `main` with the options of the command line, one for each of its parameters.

    A parameter without a default is a required option; one with a tuple takes several values.
    `--help` prints the docstrings of the recipe's module and of `main`.
    """
    description = f"{main.__globals__['__doc__']} {main.__doc__}"
    parser = argparse.ArgumentParser(description=description)
    for name, parameter in inspect.signature(main).parameters.items():
        option, default = f"--{name.replace('_', '-')}", parameter.default
        if default is parameter.empty:
            parser.add_argument(option, type=parameter.annotation, required=True)
        elif isinstance(default, tuple):
            kind = type(default[0]) if default else str
            parser.add_argument(option, type=kind, default=default, nargs="+")
        else:
            parser.add_argument(option, type=parameter.annotation, default=default)
    run(functools.partial(main, **vars(parser.parse_args())))


def take_step(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """One step down the loss's gradient, clipped to a norm of 1, and one of the learning rate."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
    optimizer.step()
    schedule.step()


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average's parameters towards the model's: average · decay + model · (1 - decay)."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def low_precision() -> torch.autocast:
    """Inside, networks compute in bfloat16 where the processor does: that is almost twice as fast
    for convolutions of few channels."""
    able = torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.autocast("cpu", torch.bfloat16, enabled=able)


def learn(
    name: str,
    state: Path,
    parts: Mapping[str, Any],
    steps: int,
    seed: int,
    loss: Callable[[torch.Generator], Tensor],
    after: Callable[[int], None] = lambda step: None,
) -> None:
    """Train for ``steps``, each with its own generator; an interrupted run goes on from ``state``.

    parts: what has a state, among it ``optimizer`` and ``schedule``. after: is called with the
    step's number. Exits with status 3 after SIGTERM, as a cell's training does.
    """
    with StopRequest() as stop, StateFolder(state) as folder:
        first, content = 0, folder.load()
        if content:
            for key, part in parts.items():
                part.load_state_dict(content[key])
            first = content["step"]
        for step in tqdm(range(first, steps), desc=name, initial=first, total=steps, disable=None):
            value = loss(torch.Generator().manual_seed(seed + step))
            take_step(value, parts["optimizer"], parts["schedule"])
            after(step)
            done = step + 1
            if stop or done % SAVE_EVERY == 0 or done == steps:
                print(f"{name}, step {done} of {steps}: loss {value.item():.4f}", flush=True)
                states = {key: part.state_dict() for key, part in parts.items()}
                folder.save(done, states | {"step": done})
            if stop and done < steps:
                raise SystemExit(INTERRUPTED)


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` returns, from ``path`` where an interrupted run has left it."""
    if path.exists():
        return torch.load(path, weights_only=True)
    value = make()
    with atomic_write(path) as file:
        torch.save(value, file)
    return value
