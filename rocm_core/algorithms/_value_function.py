"""DPOK's value function: a learned baseline of the final reward."""

import math

import torch
from torch import Tensor, nn

from rocm_core.algorithms._policy_gradient import Sample
from rocm_core.policies import HIDDEN


class ValueFunction(nn.Module):
    """V(x_k, c, k): a perceptron of the latents, the mean token of the prompt and the step.

    It says how many `std` above `mean` the reward will be, and nothing but `mean` at first. Latents
    are divided by the root of their size: what is mostly noise must not drown the prompt.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, latent_size: int, text_width: int, steps: int) -> None:
        super().__init__()
        inputs = latent_size + text_width + steps
        last = nn.Linear(256, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), last
        )
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def forward(self, sample: Sample) -> Tensor:
        """Values `(N, T)` of the states visited, in single precision."""
        states = torch.stack([t.state for t in sample.transitions], 1).float().flatten(2)
        embeddings = sample.batch.embeddings[HIDDEN].float()
        count, steps = states.shape[:2]
        text = embeddings.mean(1)[:, None].expand(-1, steps, -1)
        step = torch.eye(steps, device=states.device).expand(count, -1, -1)
        inputs = [states / math.sqrt(states.shape[2]), text, step]
        values = self.layers(torch.cat(inputs, 2))[..., 0]
        return self.mean + self.std * values
