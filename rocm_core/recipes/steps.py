"""What the recipes share: the command line, a training's step, moving average and saved state."""

import argparse
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from rocm_core.errors import run
from rocm_core.provenance import atomic_write


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
            parser.add_argument(option, type=type(default[0]), default=default, nargs="+")
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


def save_state(path: Path, parts: Mapping[str, Any], **position: int) -> None:
    """Write the states of models, optimiser and schedule, and the position in the training."""
    with atomic_write(path) as file:
        torch.save({name: part.state_dict() for name, part in parts.items()} | position, file)


def load_state(path: Path) -> dict[str, Any] | None:
    """What :func:`save_state` wrote, or None at the start of a training."""
    return torch.load(path, weights_only=True) if path.exists() else None


def restore(parts: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Give each part its state."""
    for name, part in parts.items():
        part.load_state_dict(state[name])
