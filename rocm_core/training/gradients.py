"""How far the gradients of single images scatter, by several algorithms at the same weights.

Of a gradient g with mean G the variance is E|g - G|², summed over the adapter's parameters. It has
the unit of the loss, which algorithms differ in, so it is compared with |G|²: their quotient is the
number of images at which noise and signal are equal, the simple noise scale of McCandlish et al.
2018 (arXiv 1812.06162, equation 2.9).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rocm_core.configuration import TrainingSettings
from rocm_core.errors import UserError
from rocm_core.grid import Standards, of_single_images
from rocm_core.prompts import Prompt
from rocm_core.provenance import hash_inputs, record_beside, write_csv, write_manifest
from rocm_core.training.trainer import Trainer

COLUMNS = ("at", "gradient", "images", "squared_mean", "variance")


class Scatter:
    """The gradients of `unit` images each, several to a prompt: their mean and variance.

    It is the `Optimiser` of an algorithm, and leaves the weights as they are. Images of one prompt
    are not independent, so |G|² is estimated from products of gradients of different prompts, which
    has no bias; it may be below 0 where the signal drowns.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], unit: int, units_per_prompt: int
    ) -> None:
        self.parameters, self.unit, self.units_per_prompt = parameters, unit, units_per_prompt
        size, device = sum(p.numel() for p in parameters), parameters[0].device
        self.total, self.of_prompt = (torch.zeros(size, device=device) for _ in range(2))
        self.squares = self.squares_of_prompts = 0.0
        self.count = 0

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    @torch.no_grad()
    def step(self) -> None:
        """Count what has gathered as the gradient of the next `unit` images."""
        empty = (torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters)
        gradient = torch.cat([part.flatten().float() for part in empty])
        for parameter in self.parameters:
            parameter.grad = None
        self.count += 1
        self.squares += float(gradient.square().sum())
        self.of_prompt += gradient
        if self.count % self.units_per_prompt == 0:
            self.squares_of_prompts += float(self.of_prompt.square().sum())
            self.total += self.of_prompt
            self.of_prompt.zero_()

    def gather(self, values: list[Any]) -> list[Any]:
        return values

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        pass

    def estimates(self) -> tuple[float, float]:
        """|G|² and the variance of the gradient of one image."""
        pairs = self.count * (self.count - self.units_per_prompt)  # of different prompts, ordered
        squared_mean = (float(self.total.square().sum()) - self.squares_of_prompts) / pairs
        return squared_mean, self.unit * (self.squares / self.count - squared_mean)


def scatter(
    settings: TrainingSettings,
    prompts: Sequence[Prompt],
    images: int,
    images_per_prompt: int,
    *,
    step: int = 1,
    lora: Path | None = None,
    accelerator: Any = None,
    standards: Standards | None = None,
) -> tuple[float, float]:
    """|G|² and the variance of a gradient of one image, by the algorithm of some settings, without
    its divergence: at the start of their training, or with the weights of `lora`.

    step: the iteration at which prompts and noise are drawn, alike for all algorithms.
    """
    from accelerate import Accelerator

    own = of_single_images(settings, images, images_per_prompt, step)
    if lora:
        own = own.model_copy(update={"init_lora": str(lora)})
    trainer = Trainer(own, prompts, "", accelerator or Accelerator(), standards=standards)
    unit = own.batch_size
    gradients = Scatter([*trainer.lora.values()], unit, images_per_prompt // unit)
    _, batches = trainer.begin(step)
    # Of a policy gradient all images are sampled before the first update, of which each has one.
    sampled_first = "updates_per_iteration" in type(settings).model_fields
    for together in [batches] if sampled_first else [[batch] for batch in batches]:
        trainer.algorithm.update(trainer.policy, trainer.reward, together, gradients)
    return gradients.estimates()


def measure_gradients(
    methods: Mapping[str, TrainingSettings],
    prompts: Sequence[Prompt],
    images: int,
    images_per_prompt: int,
    steps: Mapping[str, int],
    lora: Path,
    output: Path,
    fingerprint: str,
    inputs: Iterable[str | Path] = (),
    standards: Standards | None = None,
) -> None:
    """Write `COLUMNS` of every method's gradient, and a manifest beside it.

    steps: at which iteration, of "start", of any training, and "end", with the `lora` of one's end.
    inputs: the files that all this is made from. Raises `UserError` for one that is not finite.
    """
    from accelerate import Accelerator

    began, hashes, accelerator = time.perf_counter(), hash_inputs([*inputs, lora]), Accelerator()
    rows = []
    for at, step in steps.items():
        for name, settings in methods.items():
            estimates = scatter(
                settings,
                prompts,
                images,
                images_per_prompt,
                step=step,
                lora=lora if at == "end" else None,
                accelerator=accelerator,
                standards=standards,
            )
            if not all(map(math.isfinite, estimates)):
                raise UserError(
                    f"{at}: the gradient of {name} is not finite: lower learning_rate, or check"
                    " what its reward gives"
                )
            rows.append([at, name, images, *estimates])
            print(f"{at}, {name}: |G|² {estimates[0]:.4g}, variance {estimates[1]:.4g}", flush=True)
    write_csv(output, COLUMNS, rows)
    on_gpu = accelerator.device.type == "cuda"
    write_manifest(
        record_beside(output),
        settings={
            "methods": {name: settings.to_dict() for name, settings in methods.items()},
            "images": images,
            "images_per_prompt": images_per_prompt,
            "steps": dict(steps),
        },
        code=fingerprint,
        weights=[*dict.fromkeys(w for s in methods.values() for w in s.weights)],
        inputs=hashes,
        outputs=[output],
        device=torch.cuda.get_device_name(accelerator.device) if on_gpu else "cpu",
        job_seconds=time.perf_counter() - began,
    )
