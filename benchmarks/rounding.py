"""What bfloat16 reports of trained adapters, and what each way to report it costs.

    python -m benchmarks.rounding

trains an adapter in float32 for a few steps, scales it to several d² per latent dimension, and
compares what bfloat16 makes of it, by two passes, by one batched pass, by float32 for both means,
and by the pass of `rocm_core.policies.compensation`: at the states of float32's trajectories, and
for the last at those of its own, where float32 is asked as well. Each visits other states than the
other, of which a few decide the mean: many images are needed to compare the two trajectories.
Steps of all four take turns in one process.
Writes benchmarks/results/rounding-cpu.json.
"""

import argparse
import contextlib
import functools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.compare import ATTENTION, RESULTS, describe
from benchmarks.models import SHAPES
from rocm_core.algorithms import Batch, load_algorithm
from rocm_core.configuration import ModelSettings, settings_class
from rocm_core.policies import (
    Embeddings,
    Policy,
    Transition,
    add_adapter,
    load_policy,
    lora_parameters,
)
from rocm_core.policies.lora import ADAPTER, adapted_layers
from rocm_core.provenance import atomic_write
from rocm_core.rewards import Reward
from rocm_core.training import LiveBytes

LEVELS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2)  # of d² per latent dimension
STEPS = 4
IMAGES, MANY = 16, 256  # over which distances are averaged: at the same states, and at others
BATCH_SIZES = {"shapes": 4, "wide": 1}
BEFORE = "two passes"
WIDE = {  # a larger U-Net with random weights
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 8,
    "cross_attention_dim": 64,
    "block_out_channels": (128, 256, 512),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "time_cond_proj_dim": 32,
}


class Brightness(Reward):
    name, differentiable = "brightness", True

    def score(self, images: Tensor, prompts: list[str]) -> Tensor:
        return images.square().mean((1, 2, 3))


def load(size: str, dtype: torch.dtype) -> Policy:
    """The embedded consistency model, with an adapter; "wide": with a larger random U-Net."""
    settings = ModelSettings(
        policy="consistency",
        chain="lcm",
        model=str(SHAPES / "consistency"),
        inference_steps=STEPS,
        guidance_scale=1.0,
    )
    policy = load_policy(settings, "cpu", dtype)
    if size == "wide":
        from diffusers import UNet2DConditionModel

        torch.manual_seed(0)
        network = UNet2DConditionModel(**WIDE).requires_grad_(False).eval()
        policy.denoiser.network = network.to(dtype)
        policy.denoiser.latent_shape = (8, 16, 16)
    add_adapter(policy.network, 8, 16.0, ATTENTION, seed=0)
    return policy


class TwoPasses(Policy):
    """bfloat16 without compensation."""

    compensates = False


class OnePass(TwoPasses):
    """Policy and reference in one batch, whose second half has no adapter."""

    compensates = True

    def means(self, index: int, state: Tensor, embeddings: Embeddings, both: bool) -> tuple:
        if not both:
            return super().means(index, state, embeddings, both)
        layers = adapted_layers(self.network)
        for layer in layers:
            layer.forward = functools.partial(_half_adapted, layer)
        try:
            twice = (
                torch.cat([state, state]),
                {name: torch.cat([part, part]) for name, part in embeddings.items()},
            )
            mean = self.mean(index, *twice)
        finally:
            for layer in layers:
                del layer.forward
        return mean.chunk(2)


def _half_adapted(layer: Any, inputs: Tensor) -> Tensor:
    base, first = layer.base_layer(inputs), inputs.chunk(2)[0].float()
    change = layer.lora_B[ADAPTER](layer.lora_A[ADAPTER](first)) * layer.scaling[ADAPTER]
    with_adapter, without = base.chunk(2)
    return torch.cat([(with_adapter + change).to(base.dtype), without])


def set_adapter(policy: Policy, values: dict[str, Tensor], strength: float) -> None:
    with torch.no_grad():
        for name, parameter in lora_parameters(policy.network).items():
            parameter.copy_(values[name] * (strength if ".lora_B." in name else 1))


def loss_of(policy: Policy, batch: Batch, reference: str) -> Tensor:
    settings = settings_class("direct", "algorithm")(
        **{"reward": "brightness", "scorer": None, "policy": "consistency", "chain": "lcm"},
        **{"model": "", "inference_steps": STEPS, "guidance_scale": 1.0, "algorithm": "direct"},
        **{"divergence": "kl", "beta": 1.0, "seed": 0, "reduction": "mean"},
        reference_gradient=reference,
    )
    loss, _ = load_algorithm(settings).loss(policy, Brightness(), batch)
    return loss


@torch.no_grad()
def squared_distance(
    policy: Policy, batch: Batch, visited: Sequence[Transition] | None = None
) -> float:
    """Mean over steps and images, per latent dimension: of states that were visited, or its own."""
    if visited is None:
        steps = policy.rollout(batch.embeddings, batch.noise, "full").transitions
    else:
        steps = [
            policy.reevaluate(index, step, batch.embeddings, reference=True)
            for index, step in enumerate(visited)
        ]
    return torch.stack([step.squared_distance("mean") for step in steps]).mean().item()


@torch.no_grad()
def own_states(exact: Policy, half: Policy, batches: dict[Policy, Batch]) -> dict[str, float]:
    """What both report along their own trajectories, and float32 at the states of the other's."""
    batch = batches[half]
    visited = half.rollout(batch.embeddings, batch.noise, "full").transitions
    return {
        "compensated": float(torch.stack([s.squared_distance("mean") for s in visited]).mean()),
        "float32 there": squared_distance(exact, batches[exact], visited),
        "float32": squared_distance(exact, batches[exact]),
    }


def train(policy: Policy, batch: Batch) -> dict[str, Tensor]:
    """The adapter after five fast steps of AdamW on the brightness of images."""
    lora = lora_parameters(policy.network)
    adam = torch.optim.AdamW(lora.values(), lr=1e-3, weight_decay=0.0)
    for _ in range(5):
        images = policy.decode(policy.rollout(batch.embeddings, batch.noise).latents)
        (-Brightness().score(images, []).mean()).backward()
        adam.step()
        adam.zero_grad()
    return {name: value.detach().clone() for name, value in lora.items()}


def measure(size: str, batch_size: int, repeats: int) -> dict[str, Any]:
    exact, half = load(size, torch.float32), load(size, torch.bfloat16)
    prompts = ["a red circle", "two green triangles"] * MANY

    def batches_of(count: int) -> dict[Policy, Batch]:
        noise = exact.noise(0, [str(i) for i in range(count)], "rounding")
        texts = prompts[:count]
        return {p: Batch(texts, p.encode_prompts(texts), noise) for p in (exact, half)}

    batches, many = batches_of(batch_size), batches_of(IMAGES)
    values = train(exact, batches[exact])
    ways: dict[str, tuple[Policy, type[Policy]]] = {
        "compensated": (half, Policy),
        BEFORE: (half, TwoPasses),
        "one batched pass": (half, OnePass),
        "float32": (exact, Policy),
    }

    @contextlib.contextmanager
    def turned(name: str) -> Iterator[Policy]:
        policy, kind = ways[name]
        policy.__class__ = kind
        yield policy
        policy.__class__ = Policy

    def each(function: Callable[[Policy, Batch], Any]) -> dict[str, Any]:
        results = {}
        for name in ways:
            with turned(name) as policy:
                results[name] = function(policy, batches[policy])
        return results

    most = batches_of(MANY)
    reported = {}
    for level in LEVELS:
        strength = 1.0 if level else 0.0
        for _ in range(4 if level else 0):
            set_adapter(exact, values, strength)
            strength *= math.sqrt(level / squared_distance(exact, many[exact]))
        for policy in (exact, half):
            set_adapter(policy, values, strength)
        with torch.no_grad():
            visited = exact.rollout(many[exact].embeddings, many[exact].noise).transitions
        reported[f"{level:g}"] = {
            "same_states": each(
                lambda policy, _, v=visited: squared_distance(policy, many[policy], v)
            ),
            "own_states": own_states(exact, half, most),
        }
    costs = {}
    for reference in ("full", "stop"):

        def step(policy: Policy, batch: Batch, reference: str = reference) -> float:
            began = time.process_time()
            loss_of(policy, batch, reference).backward()
            policy.network.zero_grad()
            return time.process_time() - began

        def peak(policy: Policy, batch: Batch, reference: str = reference) -> int:
            with LiveBytes(torch.device("cpu")) as live:
                loss_of(policy, batch, reference).backward()
                policy.network.zero_grad()
                return live.most()

        each(step)
        rounds = [each(step) for _ in range(repeats)]
        peaks = each(peak)
        costs[reference] = {
            name: {
                "cpu_seconds": statistics.median(r[name] for r in rounds),
                "time_relative_to_two_passes": statistics.median(
                    r[name] / r[BEFORE] for r in rounds
                ),
                "peak_mib": round(peaks[name] / 2**20, 1),
            }
            for name in ways
        }
    parameters = sum(parameter.numel() for parameter in exact.network.parameters())
    facts = {"parameters": parameters, "images": IMAGES, "batch_size": batch_size}
    return facts | {"squared_distance_per_dimension": reported, "steps": costs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=BATCH_SIZES, default=[*BATCH_SIZES])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "rounding-cpu.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    record = describe("cpu")
    for size in args.sizes:
        record[size] = measure(size, BATCH_SIZES[size], args.repeats)
        print(json.dumps(record[size], indent=1), flush=True)
        with atomic_write(args.output) as file:
            file.write((json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
