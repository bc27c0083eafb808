"""What every policy is: a K-step Gaussian Markov chain over latents, with a U-Net inside.

x_K ~ N(0, I); x_{k-1} ~ N(mean_k(x_k), std_k² I) for the stochastic steps, which come first; then
the deterministic ones (for a consistency model the last). Noise is given, so that a rollout is a
differentiable function of the adapter's parameters (reparameterisation).
"""

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from rocm_core.errors import UserError
from rocm_core.policies._components import load_components
from rocm_core.policies._split_gradient import split_gradient
from rocm_core.policies.lora import is_reference
from rocm_core.policies.lora import reference as adapter_off
from rocm_core.policies.noise import gaussian

# Nothing; each step of the chain; and in it each block of the U-Net and of the decoder.
Recomputation = Literal["none", "step", "block"]
MODES: tuple[Recomputation, ...] = get_args(Recomputation)  # from the fastest to the leanest
COMPILED_MODES = MODES[:2]  # a compiled network has no blocks any more


@dataclass(frozen=True)
class Transition:
    """One stochastic step: x_{k-1} ~ N(mean, std² I) given x_k. Latents are `(N, C, h, w)`.

    With reference="stop", `mean` carries gradient to the parameters only, else to the state too.
    """

    timestep: int
    state: Tensor
    mean: Tensor
    std: Tensor  # ()
    next_state: Tensor
    reference_mean: Tensor | None

    def log_prob(self, reduction: Literal["sum", "mean"] = "sum") -> Tensor:
        """log N(next_state; mean, std² I), `(N,)`: summed or averaged over latent dimensions."""
        z = (self.next_state - self.mean) / self.std
        density = -0.5 * z.square() - self.std.log() - 0.5 * math.log(2 * math.pi)
        return _reduce(density, reduction)

    def log_ratio(
        self, reduction: Literal["sum", "mean"] = "sum", base: Tensor | None = None
    ) -> Tensor:
        """log of the next state's density over that of N(base, std² I), `(N,)`, reduced as
        `log_prob`; base None: the reference's mean.

        Exactly 0 for equal means. A difference of two log-probabilities, which reach tens of
        thousands, would be rounded to the thousandth: more than ratios are clipped at.
        """
        base = self._reference_mean if base is None else base
        middle = self.next_state - (self.mean + base) / 2
        return _reduce((self.mean - base) / self.std * (middle / self.std), reduction)

    def squared_distance(self, reduction: Literal["sum", "mean"] = "sum") -> Tensor:
        """d² = |mean - reference mean|²/std², `(N,)`: summed or averaged over latent dimensions."""
        return _reduce(((self.mean - self._reference_mean) / self.std).square(), reduction)

    @property
    def _reference_mean(self) -> Tensor:
        if self.reference_mean is None:
            raise ValueError("this transition was made without a reference")
        return self.reference_mean


def _probe(values: Tensor) -> Tensor:
    return values.sin() + 1


def _reduce(values: Tensor, reduction: Literal["sum", "mean"]) -> Tensor:
    flat = values.flatten(1)
    return flat.sum(1) if reduction == "sum" else flat.mean(1)


@dataclass(frozen=True)
class Trajectory:
    """What a rollout leaves: final latents x_0 `(N, C, h, w)` and the stochastic steps in order."""

    latents: Tensor
    transitions: list[Transition]

    def squared_distances(self, reduction: Literal["sum", "mean"] = "sum") -> Tensor:
        """d² of each stochastic step, `(N, K-1)`; needs a rollout with a reference."""
        columns = [step.squared_distance(reduction) for step in self.transitions]
        return torch.stack(columns, 1) if columns else self.latents.new_zeros(len(self.latents), 0)


class Policy(nn.Module, ABC):
    """A frozen diffusers pipeline as a policy; only an adapter added to `unet` can be trained.

    A subclass sets `timesteps` and `stds` and computes `mean`.
    passes_per_step: U-Net evaluations that one image takes for one step.
    unet_passes: evaluations so far, counted per image, forward, recomputations not counted.
    """

    passes_per_step = 1
    guidance_scale: float
    unconditional: Tensor  # (1, L, D) embedding of the empty prompt
    timesteps: Tensor  # (K,) int64, in the order of the steps
    stds: Tensor  # one for each stochastic step, at least float32
    last_step: tuple[float, float] | None = None  # of a deterministic one: √ᾱ and σ it starts at

    def __init__(
        self, model: str, device: torch.device, dtype: torch.dtype, lora: str | None = None
    ) -> None:
        super().__init__()
        components = load_components(model, lora)
        self.unet, self.vae = components.unet, components.vae
        self.text_encoder: nn.Module | None = components.text_encoder
        self.tokenizer, self.scheduler = components.tokenizer, components.scheduler
        self.device, self.dtype = device, dtype
        self.unet_passes = 0
        self._recomputation: Recomputation = "none"
        self.requires_grad_(False).eval().to(device, dtype)

    def set_chain(self, timesteps: Sequence[int], stds: Sequence[float]) -> None:
        """timesteps: K, in the order of the steps. stds: of those that draw, which come first."""
        precision = torch.promote_types(self.dtype, torch.float32)
        self.register_buffer(
            "timesteps", torch.tensor(timesteps, device=self.device), persistent=False
        )
        self.register_buffer(
            "stds", torch.tensor(stds, dtype=precision, device=self.device), persistent=False
        )
        self._timesteps = list(timesteps)

    def set_guidance(self, scale: float, passes: int) -> None:
        """passes: U-Net evaluations a step, 2 for classifier-free guidance."""
        self.guidance_scale, self.passes_per_step = scale, passes
        self.register_buffer("unconditional", self.encode_prompts([""]), persistent=False)

    @property
    def steps(self) -> int:
        """K, the number of steps."""
        return len(self._timesteps)

    @property
    def recomputation(self) -> Recomputation:
        """What is computed again in the backward pass instead of kept; changes no number."""
        return self._recomputation

    @recomputation.setter
    def recomputation(self, mode: Recomputation) -> None:
        self._recomputation = mode
        for network in (self.unet, self.vae):
            if mode == "block":
                network.enable_gradient_checkpointing(self._recompute_block)
            else:
                network.disable_gradient_checkpointing()

    def _recompute_block(self, block: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """What diffusers calls in place of a block; the adapter will be off again if it is now."""

        def unadapted(*inputs: Tensor) -> Tensor:
            with self.reference():
                return block(*inputs)

        function = unadapted if is_reference(self.unet) else block
        return recompute(function, *inputs, use_reentrant=False, preserve_rng_state=False)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        config = self.unet.config
        return config.in_channels, config.sample_size, config.sample_size

    @abstractmethod
    def mean(self, index: int, state: Tensor, embeddings: Tensor) -> Tensor:
        """Mean `(N, C, h, w)` of step `index` given its state; a deterministic step's result.

        index: 0 (from x_K) to K-1. state: `(N, C, h, w)`, at least float32, as is the mean.
        embeddings: `(N, L, D)`.
        """

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings `(N, L, D)`; what exceeds the encoder's L tokens is cut off."""
        if self.text_encoder is None:
            raise ValueError("the text encoder was dropped")
        length = self.tokenizer.model_max_length
        chunks = []
        for start in range(0, len(prompts), 64):
            texts = list(prompts[start : start + 64])
            tokens = self.tokenizer(
                texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            chunks.append(self.text_encoder(tokens.input_ids.to(self.device))[0])
        return torch.cat(chunks)

    def guided(
        self, index: int, state: Tensor, embeddings: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """The U-Net's output at step `index`, in the precision of the state, with classifier-free
        guidance where a step takes two passes. condition: its `timestep_cond`."""
        states = state.to(self.dtype)
        if self.passes_per_step == 2:
            states = torch.cat([states, states])
            embeddings = torch.cat([self.unconditional.expand_as(embeddings), embeddings])
        with self.autocast():
            output = self.unet(
                states,
                self.timesteps[index],
                encoder_hidden_states=embeddings,
                timestep_cond=condition,
                return_dict=False,
            )[0].to(state.dtype)
        if self.passes_per_step == 1:
            return output
        without, conditional = output.chunk(2)
        return without + self.guidance_scale * (conditional - without)

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(N, 3, H, W)` in [0, 1], differentiable except where a pixel is clipped."""
        config = self.vae.config
        latents = latents / config.scaling_factor + (config.shift_factor or 0)
        with self.autocast():
            images = self.vae.decode(latents.to(self.dtype), return_dict=False)[0]
        return (images.to(latents.dtype) / 2 + 0.5).clamp(0, 1)

    def noise(self, seed: int, keys: Sequence[str], stream: str) -> Tensor:
        """x_K and the noise of each stochastic step, `(N, K, C, h, w)` for one deterministic step.

        Entry i depends on (seed, stream, keys[i]) only.
        """
        draws = gaussian(seed, keys, (1 + len(self.stds), *self.latent_shape), stream)
        return draws.to(self.stds, non_blocking=True)

    def rollout(
        self,
        embeddings: Tensor,
        noise: Tensor,
        reference: Literal["full", "stop"] | None = None,
    ) -> Trajectory:
        """Run the chain from `noise` (see `noise`) under `embeddings` `(N, L, D)`.

        Gradients flow iff they are enabled. reference: also compute, at the same states, the means
        of the model without its adapter. "full": they carry gradient to the states, as equation 10
        says; "stop": the states are constants in `mean` and `reference_mean`, not in the chain.
        """
        checkpoint = self.recomputation != "none"

        def keep(function: Callable[[Tensor], Tensor], state: Tensor) -> Tensor:
            if checkpoint and torch.is_grad_enabled():
                return recompute(function, state, use_reentrant=False, preserve_rng_state=False)
            return function(state)

        parameters = [parameter for parameter in self.unet.parameters() if parameter.requires_grad]
        split = reference == "stop" and torch.is_grad_enabled() and bool(parameters)
        state, transitions = noise[:, 0], []
        for index, timestep in enumerate(self._timesteps):

            def adapted(x: Tensor, index: int = index) -> Tensor:
                return self.mean(index, x, embeddings)

            def unadapted(x: Tensor, index: int = index) -> Tensor:
                with self.reference():
                    return self.mean(index, x, embeddings)

            self.unet_passes += self.passes_per_step * len(state)
            if index >= len(self.stds):
                state = keep(adapted, state)
                continue
            if split:
                mean, regularised = split_gradient(adapted, state, parameters, checkpoint)
            else:
                mean = regularised = keep(adapted, state)
            reference_mean = None
            if reference is not None:
                self.unet_passes += self.passes_per_step * len(state)
                with torch.set_grad_enabled(torch.is_grad_enabled() and reference == "full"):
                    reference_mean = keep(unadapted, state)
            std = self.stds[index]
            next_state = mean + std * noise[:, index + 1]
            transitions.append(
                Transition(timestep, state, regularised, std, next_state, reference_mean)
            )
            state = next_state
        return Trajectory(state, transitions)

    def revisit(
        self, index: int, past: Transition, embeddings: Tensor, reference: bool = False
    ) -> Transition:
        """The transition `past`, which was step `index`, as the policy would make it now.

        State and next state stay, so that only the mean carries gradient: for policy gradients.
        """
        evaluations = 2 if reference else 1
        self.unet_passes += evaluations * self.passes_per_step * len(past.state)
        mean, reference_mean = self.mean(index, past.state, embeddings), None
        if reference:
            with self.reference(), torch.no_grad():
                reference_mean = self.mean(index, past.state, embeddings)
        return replace(past, mean=mean, reference_mean=reference_mean)

    def reference(self) -> AbstractContextManager[None]:
        """Inside, the policy is the reference: its adapter is off."""
        return adapter_off(self.unet)

    def compile_unet(self) -> None:
        """Have torch compile the U-Net, with the adapter that it has.

        Takes minutes, at the first pass of each kind: with and without adapter and gradient. Raises
        `UserError` where this machine cannot compile.
        """
        from torch._functorch import config as gradients
        from torch._inductor import config as code

        # `stop` passes backward twice, so that what a pass keeps must outlive its first backward.
        gradients.donated_buffer = False
        # Else kinds round to bfloat16 in other places, and the adapter starts off the reference.
        code.emulate_precision_casts = True
        try:
            torch.compile(_probe)(torch.zeros(8, device=self.device))
        except Exception as error:  # of as many kinds as there are compilers
            reason = str(error).strip().partition("\n\n")[0]
            raise UserError(
                f"compile: torch cannot compile here ({type(error).__name__}: {reason}): install a"
                " C++ compiler, for a GPU Triton too, or leave compile out"
            ) from error
        self.unet.compile(dynamic=False)

    @contextlib.contextmanager
    def uncompiled(self) -> Iterator[None]:
        """Inside, the U-Net runs operation by operation.

        What watches single operations needs it: a compiled network that is first called under a
        dispatch mode is never compiled.
        """
        compiled, self.unet._compiled_call_impl = self.unet._compiled_call_impl, None
        try:
            yield
        finally:
            self.unet._compiled_call_impl = compiled

    def autocast(self) -> torch.autocast:
        """Autocast to the networks' dtype where that is below float32: adapters stay float32."""
        low = self.dtype in (torch.bfloat16, torch.float16)
        return torch.autocast(self.device.type, dtype=self.dtype if low else None, enabled=low)
