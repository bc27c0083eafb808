"""First updates of an algorithm on the toy chain, and what that chain does in plain numbers."""

from dataclasses import replace

import numpy as np
import tiny
import torch
import toy

from rocm_core.algorithms import load_algorithm
from rocm_core.policies import add_adapter, lora_parameters

STEPS = 2


def algorithm(name, **changes):
    return load_algorithm(tiny.settings(algorithm=name, **changes))


def batch(policy, size=8, seed=0, prompts="ab"):
    """`size` images, one half for each prompt."""
    found = toy.batch(policy, size, torch.Generator().manual_seed(seed))
    return replace(found, prompts=[prompts[i * len(prompts) // size] for i in range(size)])


def first_update(name, policy, given, **changes):
    gradients = toy.Gradients(policy)
    (seen,) = algorithm(name, **changes).update(policy, toy.Closeness(), [given], gradients)
    return gradients.steps, seen


class Chain:
    """What the toy chain does with a batch, in plain numbers: x_2 = z_0, x_1 = g x_2 + s + σ z_1,
    x_0 = g x_1 + s + σ z_2, where the last σ is 0 on a chain with a deterministic last step."""

    def __init__(self, policy, given):
        gain, shift = (p.detach().numpy() for p in policy.network.parameters())
        z = given.noise.flatten(1).numpy()
        self.noise, self.states = z[:, 1:], [z[:, 0]]
        for k in range(len(gain)):
            drawn = toy.STD * z[:, k + 1] if k + 1 < z.shape[1] else 0.0
            self.states.append(gain[k] * self.states[k] + shift[k] + drawn)
        self.gain, self.final = gain, self.states[-1]
        self.reward = -((self.final - toy.TARGET) ** 2)
        self.slope = -2 * (self.final - toy.TARGET)

    def score(self, weights):
        """mean_i weights_i ∇ Σ_k log p(x_{k-1}|x_k), by gains and then by shifts: the derivative of
        -(x - g x_k - s)²/2σ² is z/σ times x_k, or 1."""
        pull = [weights * noise / toy.STD for noise in self.noise.T]
        pull += [np.zeros_like(weights)] * (STEPS - len(pull))
        by_gain = [np.mean(p * x) for p, x in zip(pull, self.states, strict=False)]
        return np.array([*by_gain, *(np.mean(p) for p in pull)])


def load(folder, kind, steps=3, dtype=torch.float32):
    model = str(tiny.write_pipeline(folder, policy=kind))
    policy = tiny.load_policy(kind, model, steps, 3.0, dtype)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    for parameter in lora_parameters(policy.network).values():
        parameter.data = parameter.data.to(dtype)
    tiny.perturb(policy.network, 0.1)
    return policy
