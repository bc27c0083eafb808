"""A chain whose optimum is known: numbers pushed by one gain and one shift a step, no network."""

from contextlib import contextmanager

import torch
from torch import nn

from rocm_core.algorithms import Batch
from rocm_core.policies import HIDDEN, Policy
from rocm_core.policies.chains import Chain, Step

STD, GAIN, TARGET = 0.5, 0.8, 1.0
# The last step can forget its state and aim at the target, but always draws its own noise.
BEST = -(STD**2)


class Numbers(nn.Module):
    """What takes a denoiser's place; it is its own network."""

    device, dtype = torch.device("cpu"), torch.float64
    latent_shape, passes = (1, 1, 1), 1

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((steps,), GAIN, dtype=torch.float64))
        self.shift = nn.Parameter(torch.zeros(steps, dtype=torch.float64))

    @property
    def network(self) -> nn.Module:
        return self


class ToyPolicy(Policy):
    """x_{k-1} ~ N(gain_k x_k + shift_k, STD²), in double precision; 0.8 and 0 is the reference."""

    def __init__(self, steps: int = 3, deterministic: bool = False) -> None:
        """deterministic: the last step draws no noise."""
        stds = [0.0 if deterministic and t == 1 else STD for t in range(steps, 0, -1)]
        timesteps = range(steps, 0, -1)
        chain = Chain(
            tuple(
                Step(t, (0.0, 1.0), 0.0, 1.0, 0.0, std)
                for t, std in zip(timesteps, stds, strict=True)
            ),
            last_step=(0.6, 0.8) if deterministic else None,
        )
        super().__init__(Numbers(steps), chain)
        self.is_reference = False

    def mean(self, index, state, embeddings, stop_input=False):
        if self.is_reference:
            return GAIN * state
        state = state.detach() if stop_input else state  # all of the mean is the network's
        return self.network.gain[index] * state + self.network.shift[index]

    def decode(self, latents):
        return latents

    @contextmanager
    def reference(self):
        self.is_reference = True
        yield
        self.is_reference = False


class Closeness:
    """-(x_0 - target)²."""

    name = "closeness"
    differentiable = True

    def score(self, images, prompts):
        return -(images.flatten() - TARGET).square()


def batch(policy: ToyPolicy, size: int, generator: torch.Generator) -> Batch:
    noise = torch.randn(size, 1 + len(policy.stds), 1, 1, 1, generator=generator).double()
    return Batch(["x"] * size, {HIDDEN: torch.zeros(size, 1, 1)}, noise)


class Gradients:
    """An optimiser that leaves the parameters alone and keeps the gradient of each step."""

    def __init__(self, policy: Policy) -> None:
        self.parameters = [p for p in policy.network.parameters() if p.requires_grad]
        self.steps: list[torch.Tensor] = []

    def backward(self, loss):
        loss.backward()

    def step(self):
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.steps.append(torch.cat([gradient.flatten() for gradient in found]))
        for parameter in self.parameters:
            parameter.grad = None

    def gather(self, values):
        return values

    def average_gradients(self, parameters):
        pass
