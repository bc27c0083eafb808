"""Architectures of the shapes world's base models: Stable Diffusion's classes at a tiny size, and
Stable Diffusion 3's of the second few-step base."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchLCMScheduler,
    LCMScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from rocm_core.shapes.scenes import SIZE

LATENT_CHANNELS = 8
LATENT_SIZE = 8
TEXT_WIDTH = 64
GUIDANCE_EMBEDDING = 32
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
LAST_SIGMA = 0.25  # at which the last step of a rectified flow starts: four steps are equally long
CONSISTENCY_INTERVALS = 50  # DDIM steps of the teacher that the consistency model skips over


def make_autoencoder() -> AutoencoderKL:
    """Images (3, 32, 32) to latents (8, 8, 8) and back, 0.65 M parameters."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of CLIP's text transformer over the world's own tokens."""
    return CLIPTextModel(_text_config(tokenizer, layers=2))


def make_projecting_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """The same with a third layer and a pooled embedding: Stable Diffusion 3 takes the states
    before the last layer."""
    return CLIPTextModelWithProjection(_text_config(tokenizer, layers=3))


def _text_config(tokenizer: CLIPTokenizer, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def make_unet(guidance_embedding: bool) -> UNet2DConditionModel:
    """The denoiser, 4.2 M parameters; ``guidance_embedding``: it takes ω as ``timestep_cond``."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        time_cond_proj_dim=GUIDANCE_EMBEDDING if guidance_embedding else None,
    )


def make_transformer() -> SD3Transformer2DModel:
    """The denoiser of the rectified flow, 2.9 M parameters. It is told the tokens of two text
    encoders, and none of T5."""
    return SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=1,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=5,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=128,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=LATENT_SIZE,
        qk_norm="rms_norm",
    )


def make_flow_scheduler() -> FlowMatchLCMScheduler:
    """A rectified flow whose steps draw noise anew, the last from `LAST_SIGMA` on: diffusers'
    default ends a thousandth before the image, which leaves the last step nothing to do."""
    return FlowMatchLCMScheduler(shift=1.0, shift_terminal=LAST_SIGMA)


def make_diffusion_scheduler() -> DDIMScheduler:
    """DDIM from pure noise to no noise: its last step is deterministic.

    Stable Diffusion's folders end with stochastic steps of σ = 0.04 and 0.02 instead. These do not
    change what a reward sees, but the policy gradient grows with 1/σ: they would dominate it.
    """
    return DDIMScheduler(
        **NOISE_SCHEDULE, clip_sample=False, steps_offset=1, timestep_spacing="trailing"
    )


def make_consistency_scheduler() -> LCMScheduler:
    """LCM over the world's noise schedule."""
    return LCMScheduler(**NOISE_SCHEDULE, original_inference_steps=CONSISTENCY_INTERVALS)


def alphas_cumprod() -> torch.Tensor:
    """(1000,) cumulative signal power of the noise schedule."""
    return make_diffusion_scheduler().alphas_cumprod


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """(N, tokens) padded and truncated to the tokenizer's length."""
    return tokenizer(
        captions,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def save_half(module: Any, folder: Path) -> None:
    """Write a diffusers or transformers model in float16, half its size in training."""
    module.half()
    module.save_pretrained(folder)
    module.float()


def write_pipeline(pipeline: Any, folder: Path) -> None:
    """Write a pipeline as diffusers' folder in float16, which does not say where its parts were
    read from on this machine."""
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    for file in folder.glob("*/config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
