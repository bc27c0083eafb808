"""AdamW on the adapter, averaged over processes: what algorithms know as `algorithms.Optimiser`."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rocm_core.configuration import TrainingSettings


class AdapterOptimiser:
    """accelerator: gradients are averaged over its processes, so that equal adapters stay equal."""

    def __init__(
        self, parameters: list[nn.Parameter], settings: TrainingSettings, accelerator: Any
    ) -> None:
        assert isinstance(settings.learning_rate, float)  # and not a search
        self.parameters, self.settings, self.accelerator = parameters, settings, accelerator
        self.learning_rate = settings.learning_rate
        self.gradient_norm = torch.tensor(math.nan)  # of the last step, before clipping
        self.adam = torch.optim.AdamW(
            parameters,
            lr=self.learning_rate,
            betas=settings.adam_betas,
            eps=settings.adam_epsilon,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def set_learning_rate(self, iteration: int) -> float:
        """The rate of an iteration (from 1): warm-up, then constant or linearly to its end."""
        warmup, last = self.settings.warmup_steps, self.settings.iterations
        factor = min(1.0, iteration / warmup) if warmup else 1.0
        if self.settings.learning_rate_schedule == "linear":
            left = min(1.0, max(0.0, (last - iteration + 1) / max(1, last - warmup)))
            end = self.settings.learning_rate_end
            factor *= end + (1 - end) * left
        rate = self.learning_rate * factor
        for group in self.adam.param_groups:
            group["lr"] = rate
        return rate

    def state_dict(self) -> dict[str, Any]:
        return self.adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; raises ValueError for that of another optimiser."""
        fresh = self.adam.state_dict()["param_groups"]
        if [{**group, "lr": 0} for group in state["param_groups"]] != [
            {**group, "lr": 0} for group in fresh
        ]:
            raise ValueError("its optimiser has other settings")
        self.adam.load_state_dict(state)
        moments = [self.adam.state[p] for p in self.parameters if p in self.adam.state]
        shapes = [m[key].shape for m in moments for key in ("exp_avg", "exp_avg_sq")]
        wanted = [p.shape for p in self.parameters for _ in range(2)]
        if shapes != (wanted if moments else []):
            raise ValueError("its optimiser's moments do not fit the adapter")

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.average_gradients(self.parameters)
        clip = self.settings.gradient_clip
        limit = math.inf if clip is None else clip
        self.gradient_norm = nn.utils.clip_grad_norm_(self.parameters, limit)
        self.adam.step()
        self.adam.zero_grad()

    def gather(self, values: list[Any]) -> list[Any]:
        from accelerate.utils import gather_object

        return gather_object(values) if self.accelerator.num_processes > 1 else values

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        if self.accelerator.num_processes == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        flat = self.accelerator.reduce(flat, "mean")
        parts = flat.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
