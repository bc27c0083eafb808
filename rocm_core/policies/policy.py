"""A policy: a chain of Gaussian steps over latents, with a denoiser's predictions inside.

x_K ~ N(0, start² I); x_{k-1} ~ N(mean_k(x_k), std_k² I) for the steps that draw noise, which come
first; then the deterministic ones (for a consistency model the last). Noise is given, so that a
rollout is a differentiable function of the adapter's parameters (reparameterisation).
"""

import contextlib
import copy
import functools
import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rocm_core.policies._split_gradient import split_gradient
from rocm_core.policies.chains.chain import Chain
from rocm_core.policies.compensation import Pair, compensated, is_compensated
from rocm_core.policies.denoisers.denoiser import HALF, Denoiser, Embeddings
from rocm_core.policies.lora import is_reference, reference as adapter_off
from rocm_core.policies.noise import gaussian
from rocm_core.policies.transition import Trajectory, Transition

# Nothing; each step of the chain; and in it each block of the network and of the decoder.
ActivationCheckpointing = Literal["none", "step", "block"]
MODES: tuple[ActivationCheckpointing, ...] = get_args(ActivationCheckpointing)  # fastest first
COMPILED_MODES = MODES[:2]  # a compiled network has no blocks any more


class Policy(nn.Module):
    """nfe: evaluations of the network so far, counted per image, forward; those that
    activation checkpointing repeats are not counted."""

    timesteps: Tensor  # (K,), in the order of the steps
    stds: Tensor  # one for each stochastic step, at least float32
    noise_stds: Tensor | None  # the same in units of the predicted noise, see `Chain.noise_stds`

    def __init__(self, denoiser: Denoiser, chain: Chain) -> None:
        super().__init__()
        self.denoiser, self.chain = denoiser, chain
        self.nfe = 0
        self._activation_checkpointing: ActivationCheckpointing = "none"
        # On the device too, so that no step waits for it.
        timesteps = torch.tensor([step.timestep for step in chain.steps], device=denoiser.device)
        precision = torch.promote_types(denoiser.dtype, torch.float32)
        stds = torch.tensor(chain.stds, dtype=precision, device=denoiser.device)
        noise_stds = None if chain.noise_stds is None else stds.new_tensor(chain.noise_stds)
        self.register_buffer("timesteps", timesteps, persistent=False)
        self.register_buffer("stds", stds, persistent=False)
        self.register_buffer("noise_stds", noise_stds, persistent=False)

    @property
    def network(self) -> nn.Module:
        """The network that an adapter is added to."""
        return self.denoiser.network

    @property
    def device(self) -> torch.device:
        """Where networks and numbers are."""
        return self.stds.device

    @property
    def compensates(self) -> bool:
        """Whether means to be compared are evaluated as `compensation` says: below float32."""
        return self.denoiser.dtype in HALF

    @property
    def steps(self) -> int:
        """K, the number of steps."""
        return len(self.chain.steps)

    @property
    def activation_checkpointing(self) -> ActivationCheckpointing:
        """What the backward pass evaluates again instead of keeping its activations; changes no
        number."""
        return self._activation_checkpointing

    @activation_checkpointing.setter
    def activation_checkpointing(self, mode: ActivationCheckpointing) -> None:
        self._activation_checkpointing = mode
        self.denoiser.checkpoint_blocks(self._checkpoint_block if mode == "block" else None)

    def _checkpoint_block(self, block: Callable[..., Any], *inputs: Any) -> Any:
        """Call a block without keeping its activations; it is evaluated again as it was at first:
        with the adapter, without, or both ways."""
        context: Callable[[Any], AbstractContextManager[None]] = contextlib.nullcontext
        if is_reference(self.network):
            context = adapter_off
        elif is_compensated(self.network):
            context = compensated

        def again(*inputs: Any) -> Any:
            with context(self.network):
                return block(*inputs)

        return checkpoint(again, *inputs, use_reentrant=False, preserve_rng_state=False)

    def encode_prompts(self, prompts: Sequence[str]) -> Embeddings:
        """Embeddings of N prompts; what exceeds an encoder's number of tokens is cut off."""
        return self.denoiser.encode(prompts)

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(N, 3, H, W)` in [0, 1], differentiable except where a pixel is clipped."""
        return self.denoiser.decode(latents)

    def noise(self, seed: int, keys: Sequence[str], stream: str) -> Tensor:
        """x_K and the noise of each stochastic step, `(N, K, C, h, w)` for one deterministic step.

        Entry i depends on (seed, stream, keys[i]) only.
        """
        shape = (1 + len(self.stds), *self.denoiser.latent_shape)
        return gaussian(seed, keys, shape, stream).to(self.stds, non_blocking=True)

    def mean(
        self, index: int, state: Tensor, embeddings: Embeddings, stop_input: bool = False
    ) -> Tensor:
        """Mean `(N, C, h, w)` of step `index` given its state; a deterministic step's result.

        index: 0 (from x_K) to K-1. state: `(N, C, h, w)`, at least float32, as is the mean.
        embeddings: of N prompts, see `encode_prompts`. stop_input: no gradient passes through the
        network to the state.
        """
        step = self.chain.steps[index]
        given = state.detach() if stop_input else state
        given = given if step.input == 1 else step.input * given
        output = self.denoiser.predict(given, self.timesteps[index], embeddings)
        of_state, of_output = step.original
        original = of_state * state + of_output * output
        if step.divisor != 1:
            original = original / step.divisor
        if step.clip is not None:
            original = original.clamp(-step.clip, step.clip)
        parts = ((step.state, state), (step.signal, original), (step.output, output))
        terms = [factor * part for factor, part in parts if factor]  # without a pass for zeros
        mean = functools.reduce(operator.add, terms)
        return mean if step.scale == 1 else step.scale * mean

    def means(
        self, index: int, state: Tensor, embeddings: Embeddings, both: bool, **options: bool
    ) -> tuple[Tensor, ...]:
        """The mean of step `index`; both: and the reference's, in one pass of `compensation`.
        options: `mean`'s."""
        if not both:
            return (self.mean(index, state, embeddings, **options),)
        with compensated(self.network):
            mean: Tensor | Pair = self.mean(index, state, embeddings, **options)
        return (mean.total, mean.value) if isinstance(mean, Pair) else (mean, mean)

    def rollout(
        self,
        embeddings: Embeddings,
        noise: Tensor,
        reference: Literal["full", "stop"] | None = None,
        compared: bool = False,
        carried: int | None = None,
        stop_input: bool = False,
        compare_last: bool = False,
    ) -> Trajectory:
        """Run the chain from `noise` (see `noise`) under the `embeddings` of N prompts.

        Gradients flow iff they are enabled. reference: also compute, at the same states, the means
        of the model without its adapter. "full": they carry gradient to the states, as equation 10
        says; "stop": the states are constants in `mean` and `reference_mean`, not in the chain.
        carried: how many of the last steps gradients flow through; all by default. stop_input:
        not through a network to its state, see `mean`. compare_last: `reference` also for the last
        step where it is deterministic and its chain has a `last_step`.
        compared: the means will be compared with what `reevaluate` makes of these transitions.
        """
        checkpointed = self.activation_checkpointing != "none"
        enabled = torch.is_grad_enabled()
        options: dict[str, Any] = {"stop_input": True} if stop_input else {}

        def keep(function: Callable[[Tensor], Any], state: Tensor) -> Any:
            if checkpointed and torch.is_grad_enabled():
                return checkpoint(function, state, use_reentrant=False, preserve_rng_state=False)
            return function(state)

        parameters = [p for p in self.network.parameters() if p.requires_grad]
        start, last = self.chain.start, None
        state, transitions = noise[:, 0] if start == 1 else start * noise[:, 0], []
        for index, step in enumerate(self.chain.steps):
            carries = enabled and (carried is None or index >= self.steps - carried)
            split = reference == "stop" and carries and bool(parameters)
            draws = index < len(self.stds)
            compares = draws or (compare_last and index == self.steps - 1)
            compares = compares and reference is not None
            both = self.compensates and (compared or compares)
            adapted = functools.partial(
                self.means, index, embeddings=embeddings, both=both, **options
            )
            unadapted = functools.partial(
                self._reference_mean, index, embeddings=embeddings, **options
            )

            self._count(state, both or compares)
            if split and compares:
                mean, regularised, *others = split_gradient(
                    adapted, state, parameters, checkpointed
                )
            else:
                with torch.set_grad_enabled(carries):
                    mean, *others = keep(adapted, state)
                regularised = mean
            if compares and not both:
                with torch.set_grad_enabled(carries and reference == "full"):
                    others = [keep(unadapted, state)]
            if not draws:
                if compares and self.chain.last_step is not None:
                    last = self.last_step(state, regularised, others[0])
                state = mean
                continue
            std = self.stds[index]
            next_state = mean + std * noise[:, index + 1]
            reference_mean = others[0] if others else None
            transitions.append(
                Transition(step.timestep, state, regularised, std, next_state, reference_mean)
            )
            state = next_state
        return Trajectory(state, transitions, last)

    def last_step(self, state: Tensor, latents: Tensor, reference: Tensor | None) -> Transition:
        """The deterministic last step from `state` as a transition: x_0, of the policy and of the
        reference, put back to the noise level at which the step starts, without a draw."""
        assert self.chain.last_step is not None
        signal, std = self.chain.last_step
        mean, level = signal * latents, self.stds.new_tensor(std)
        base = None if reference is None else signal * reference
        return Transition(self.chain.steps[-1].timestep, state, mean, level, mean, base)

    def finish(self, state: Tensor, embeddings: Embeddings) -> Tensor:
        """x_0 `(N, C, h, w)` from the state in which the deterministic last steps begin."""
        for index in range(len(self.stds), self.steps):
            self._count(state, False)
            state = self.mean(index, state, embeddings)
        return state

    def reevaluate(
        self,
        index: int,
        past: Transition,
        embeddings: Embeddings,
        reference: bool = False,
        compared: bool = False,
    ) -> Transition:
        """The transition `past`, which was step `index`, as the policy would make it now.

        State and next state stay, so that only the mean carries gradient: for policy gradients.
        With weights that are the same it is equal to the bit, if `compared` or `reference` say so
        here and `compared` did there; they are for means that rounding must not keep apart.
        """
        both = self.compensates and (compared or reference)
        self._count(past.state, both or reference)
        mean, *others = self.means(index, past.state, embeddings, both)
        if reference and not both:
            with torch.no_grad():
                others = [self._reference_mean(index, past.state, embeddings)]
        return replace(past, mean=mean, reference_mean=others[0] if others else None)

    def widened(self) -> "Policy":
        """A copy on the same weights that computes in float32, to see what rounding does."""
        policy = copy.deepcopy(self).float()
        policy.denoiser.dtype = torch.float32
        return policy

    def _reference_mean(
        self, index: int, state: Tensor, embeddings: Embeddings, **options: bool
    ) -> Tensor:
        with self.reference():
            return self.mean(index, state, embeddings, **options)

    def _count(self, state: Tensor, twice: bool) -> None:
        self.nfe += (1 + twice) * self.denoiser.passes * len(state)

    def reference(self) -> AbstractContextManager[None]:
        """Inside, the policy is the reference: its adapter is off."""
        return adapter_off(self.network)
