"""Algorithm 2 of the paper as a plain loop, in the manner of the released trainers of its kind.

Prompts are encoded in every step, each step of the chain is checkpointed, the reference is the
U-Net with its adapter off, and AdamW is torch's default. No policy, algorithm or trainer of
rocm_core takes part; the adapter's first values, noise and reward model are the same.
"""

import functools
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, LCMScheduler, UNet2DConditionModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import CLIPTextModel, CLIPTokenizer

from benchmarks.contenders.worker import count_passes, serve
from rocm_core.policies import add_adapter, gaussian, lora_parameters
from rocm_core.rewards import load_reward


class PlainLoop:
    """One KL-regularised training run; `step` makes an update."""

    def __init__(self, setup: dict[str, Any], device: torch.device) -> None:
        self.setup, self.device = setup, device
        self.dtype = getattr(torch, setup["precision"])
        folder = setup["consistency"]
        self.tokenizer = CLIPTokenizer.from_pretrained(f"{folder}/tokenizer")
        self.text_encoder = CLIPTextModel.from_pretrained(f"{folder}/text_encoder")
        self.unet = UNet2DConditionModel.from_pretrained(f"{folder}/unet")
        self.vae = AutoencoderKL.from_pretrained(f"{folder}/vae")
        for module in (self.text_encoder, self.unet, self.vae):
            module.requires_grad_(False).eval().to(device, self.dtype)
        scheduler = LCMScheduler.from_pretrained(f"{folder}/scheduler")
        scheduler.set_timesteps(setup["steps"])
        self.timesteps = scheduler.timesteps.tolist()
        self.alphas = [scheduler.alphas_cumprod[t].item() for t in self.timesteps]
        self.prediction = scheduler.config.prediction_type
        self.boundary = [
            scheduler.get_scalings_for_boundary_condition_discrete(t) for t in self.timesteps
        ]
        self.reward = load_reward(setup["reward"], Path(setup["scorer"]), device)
        add_adapter(self.unet, setup["rank"], setup["alpha"], setup["targets"], seed=0)
        self.layers = [m for m in self.unet.modules() if isinstance(m, BaseTunerLayer)]
        self.adapter = lora_parameters(self.unet)
        perturb(self.adapter)
        self.adam = torch.optim.AdamW(
            self.adapter.values(), lr=setup["learning_rate"], weight_decay=0
        )
        self.count = 0

    def denoise(self, state: Tensor, index: int, embeddings: Tensor, adapted: bool) -> Tensor:
        """f_θ(x_k, ω, c, t_k): boundary scalings around the U-Net's x̂0."""
        for layer in self.layers:
            layer._disable_adapters = not adapted
        low = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype if low else None, enabled=low):
            output = self.unet(
                state.to(self.dtype),
                torch.tensor(self.timesteps[index], device=self.device),
                encoder_hidden_states=embeddings,
                timestep_cond=self.guidance(len(state)),
            ).sample
        for layer in self.layers:
            layer._disable_adapters = False
        alpha, output = self.alphas[index], output.to(state.dtype)
        if self.prediction == "v_prediction":
            original = math.sqrt(alpha) * state - math.sqrt(1 - alpha) * output
        else:
            original = (state - math.sqrt(1 - alpha) * output) / math.sqrt(alpha)
        c_skip, c_out = self.boundary[index]
        return c_skip * state + c_out * original

    def guidance(self, count: int) -> Tensor:
        """The embedding of ω - 1 that a consistency model is guided by, (N, width)."""
        half = self.unet.config.time_cond_proj_dim // 2
        frequency = torch.exp(torch.arange(half) * -(math.log(10000.0) / (half - 1)))
        angle = (self.setup["guidance_scale"] - 1) * 1000.0 * frequency
        embedding = torch.cat([angle.sin(), angle.cos()])
        return embedding.expand(count, -1).to(self.device, self.dtype)

    def loss(self, prompts: list[str], noise: Tensor) -> Tensor:
        """-R + β Σ_k KL(p_k(θ) ‖ p_k(θ_ref)), noise (N, K, C, h, w)."""
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        with torch.no_grad():
            embeddings = self.text_encoder(tokens.to(self.device))[0]
        state, penalty = noise[:, 0], torch.zeros(len(prompts), device=self.device)
        for k in range(len(self.timesteps)):
            policy = checkpoint(self.denoise, state, k, embeddings, True, use_reentrant=False)
            if k == len(self.timesteps) - 1:
                state = policy
                break
            alpha = self.alphas[k + 1]
            mean, std = math.sqrt(alpha) * policy, math.sqrt(1 - alpha)
            if self.setup["divergence"] == "kl":
                anchor = checkpoint(self.denoise, state, k, embeddings, False, use_reentrant=False)
                distance = (mean - math.sqrt(alpha) * anchor) / std
                penalty = penalty + distance.square().flatten(1).sum(1) / 2
            state = mean + std * noise[:, k + 1]
        latents = (state / self.vae.config.scaling_factor).to(self.dtype)
        images = (self.vae.decode(latents).sample.float() / 2 + 0.5).clamp(0, 1)
        rewards = self.reward.score(images, prompts)
        return -rewards.mean() + self.setup["beta"] * penalty.mean()

    def batch(self, number: int) -> tuple[list[str], Tensor]:
        size, prompts = self.setup["batch_size"], self.setup["prompts"]
        positions = range(number * size, (number + 1) * size)
        config = self.unet.config
        shape = (self.setup["steps"], config.in_channels, config.sample_size, config.sample_size)
        noise = gaussian(0, [str(position) for position in positions], shape, "training")
        return [prompts[p % len(prompts)] for p in positions], noise.to(self.device)

    def step(self) -> float:
        loss = self.loss(*self.batch(self.count))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.adapter.values(), 1.0)
        self.adam.step()
        self.adam.zero_grad()
        self.count += 1
        return loss.item()

    def gradient(self, file: str) -> None:
        """Write the gradient of the first batch's loss, by the adapter's names."""
        loss = self.loss(*self.batch(0))
        values = torch.autograd.grad(loss, list(self.adapter.values()))
        save_file({k: v.cpu() for k, v in zip(self.adapter, values, strict=True)}, file)


def perturb(adapter: dict[str, torch.nn.Parameter]) -> None:
    """Move the adapter off its start, where the divergence and half of the gradient are zero."""
    with torch.no_grad():
        for name, parameter in adapter.items():
            shift = gaussian(1, [name], tuple(parameter.shape), "perturb")[0]
            parameter += 0.02 * shift.to(parameter)


def build(setup: dict[str, Any], device: torch.device) -> dict[str, Any]:
    loop = PlainLoop(setup, device)
    passes = functools.partial(count_passes, loop.unet, loop.step)
    return {"step": loop.step, "passes": passes, "gradient": loop.gradient}


if __name__ == "__main__":
    serve(build)
