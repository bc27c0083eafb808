"""Distillation of a teacher's ODE to a consistency function, which maps every point of a trajectory
to its end (Song et al. 2023, definition 1).

The ODE is solved from noise to its end once, for a stock of captions, and the student learns the
end from every point on the way, with a pseudo-Huber loss: one run of the teacher per example and no
bias from a moving target.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from rocm_core.recipes.steps import follow, kept, learn

HUBER_WIDTH = 1e-3
LEARNING_RATE = 5e-4
EMA_DECAY = 0.99

Student = TypeVar("Student", bound=nn.Module)


def distil(
    name: str,
    student: Student,
    solve: Callable[[], dict[str, Tensor]],
    answer: Callable[..., Tensor],
    state: Path,
    steps: int,
    batch_size: int,
) -> Student:
    """The moving average of the student, of which learns what takes a gradient; goes on from
    ``state``.

    solve: gives ``points`` (P, …) of trajectories ``rows`` (P,) with the ``ends`` (N, …), and their
    noise levels. answer: the ends that the student gives for some of the points; it takes these,
    their rows and their levels by the names that they have in what ``solve`` gives.
    """
    data = kept(state / "trajectories.pt", solve)
    ends, average = data.pop("ends"), copy.deepcopy(student)
    learned = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, LEARNING_RATE, weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05
    )

    def loss(g: torch.Generator) -> Tensor:
        index = torch.randint(len(data["points"]), (batch_size,), generator=g)
        some = {key: values[index] for key, values in data.items()}
        error = answer(**some) - ends[some["rows"]]
        return ((error**2 + HUBER_WIDTH**2).sqrt() - HUBER_WIDTH).mean()

    def after(step: int) -> None:
        follow(average, student, min(EMA_DECAY, (1 + step) / (10 + step)))

    parts = {"student": student, "average": average, "optimizer": optimizer, "schedule": schedule}
    learn(name, state, parts, steps, 1000, loss, after)
    return average
