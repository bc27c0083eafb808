"""What the recipes' trainings share: an optimiser step, a moving average, and a state on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rocm_core.provenance import atomic_write


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
