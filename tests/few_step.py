"""Random few-step models in the folder layouts of published ones, so small that a pass takes
milliseconds; and what diffusers' own pipelines make of them."""

import json
import shutil
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import tiny
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

CLIP_LENGTH, T5_LENGTH, WIDTH = 12, 16, 16
# The layers that LCM-LoRA adapts.
ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
ADAPTED += ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "0.conv")
LETTERS = string.ascii_lowercase + string.digits + string.punctuation


@dataclass(frozen=True)
class Twin:
    """A tiny model: its pipeline, scheduler, chain, and what its pipeline is asked for."""

    pipeline: str
    scheduler: str
    chain: str
    settings: dict[str, Any] = field(default_factory=dict)  # of the scheduler
    network: dict[str, Any] = field(default_factory=dict)  # other settings of the network
    guidance_scale: float = 1.0
    asked: dict[str, Any] = field(default_factory=dict)  # of the pipeline's call
    options: dict[str, Any] = field(default_factory=dict)  # of our settings
    pixels: int = 8


STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
GUIDED = {"time_cond_proj_dim": 8}
PLAIN = {"use_resolution_binning": False, "clean_caption": False}
FLOW = "FlowMatchEulerDiscreteScheduler"
DYNAMIC = {"shift": 3.0, "use_dynamic_shifting": True}
SD, XL, SD3 = "StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline"
TWINS = {
    "LCM-SDXL": Twin(XL, "LCMScheduler", "lcm", STABLE, GUIDED, guidance_scale=7.5),
    "DMD2": Twin(
        *(XL, "LCMScheduler", "lcm", STABLE),
        asked={"timesteps": [999, 749, 499, 249]},
        options={"timesteps": (999, 749, 499, 249)},
    ),
    "SDXL with guidance": Twin(XL, "LCMScheduler", "lcm", STABLE, guidance_scale=2.0),
    "SDXL with TCD": Twin(XL, "TCDScheduler", "tcd", STABLE, asked={"eta": 0.3}),
    "SDXL-Turbo": Twin(
        *(XL, "EulerAncestralDiscreteScheduler", "ancestral"),
        STABLE | {"timestep_spacing": "trailing"},
    ),
    "SD-Turbo": Twin(
        *(SD, "EulerAncestralDiscreteScheduler", "ancestral"),
        STABLE | {"timestep_spacing": "trailing"},
    ),
    "SD with TCD": Twin(
        *(SD, "TCDScheduler", "tcd", STABLE),
        guidance_scale=3.0,
        asked={"eta": 1.0},
        options={"gamma": 1.0},
    ),
    "PixArt-LCM": Twin("PixArtAlphaPipeline", "LCMScheduler", "lcm", STABLE, asked=PLAIN),
    "PixArt with guidance": Twin(
        *("PixArtAlphaPipeline", "LCMScheduler", "lcm", STABLE, {"sample_size": 128}),
        guidance_scale=3.0,
        asked=PLAIN,
    ),
    "PixArt with TCD": Twin(
        *("PixArtAlphaPipeline", "TCDScheduler", "tcd", STABLE), asked=PLAIN | {"eta": 0.3}
    ),
    "PixArt with ancestral steps": Twin(
        *("PixArtAlphaPipeline", "EulerAncestralDiscreteScheduler", "ancestral", STABLE),
        asked=PLAIN,
    ),
    "SANA-Sprint": Twin(
        *("SanaSprintPipeline", "SCMScheduler", "scm", {"sigma_data": 0.5}),
        guidance_scale=4.5,
        asked={"use_resolution_binning": False},
        pixels=32,
    ),
    "SD3.5-turbo": Twin(SD3, FLOW, "flow", {"shift": 3.0}),
    "SD3 with guidance": Twin(
        SD3, "FlowMatchLCMScheduler", "flow", {"shift": 3.0}, guidance_scale=4.0
    ),
    "SD3 without noise": Twin(SD3, FLOW, "euler", {"shift": 3.0}),
    "FLUX.1-schnell": Twin(*("FluxPipeline", FLOW, "flow"), asked={"max_sequence_length": 256}),
    # In bfloat16, diffusers rounds guidance × 1000: the 3500 of its authors would become 3504.
    "FLUX.1-dev": Twin(
        *("FluxPipeline", FLOW, "flow", DYNAMIC, {"guidance_embeds": True}), guidance_scale=2.0
    ),
    "FLUX.1 with LCM's scheduler": Twin(
        *("FluxPipeline", "FlowMatchLCMScheduler", "flow"), asked={"max_sequence_length": 256}
    ),
    "FLUX.1 without noise": Twin(
        *("FluxPipeline", FLOW, "euler"), asked={"max_sequence_length": 256}
    ),
}
# One of each denoiser; the others have other chains, or guidance in two passes or embedded.
EACH = ("LCM-SDXL", "PixArt-LCM", "SANA-Sprint", "SD3.5-turbo", "FLUX.1-schnell", "SD with TCD")
# Chains without a published model. Not DDIM for PixArt: of one step, its pipeline returns x̂0.
UNPUBLISHED = (
    *("PixArt with TCD", "PixArt with ancestral steps"),
    *("FLUX.1 with LCM's scheduler", "FLUX.1 without noise"),
)


def write(folder: Path, name: str, seed: int = 0) -> Path:
    """Write the twin of that name as its repository lays it out."""
    twin = TWINS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = PARTS[twin.pipeline](folder, twin)
        for part, model in parts.items():
            if isinstance(model, nn.Module):
                for parameter in model.parameters():
                    spread = 0.3 if parameter.ndim > 1 else 0.1
                    parameter.data += spread * torch.randn(parameter.shape)
            model.save_pretrained(folder / part)
    scheduler = getattr(diffusers, twin.scheduler)(**twin.settings)
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": twin.pipeline}))
    return folder


def write_with_lora(folder: Path, lora: Path) -> None:
    """Write SDXL as published, whose scheduler is Euler's, and a LoRA that makes it an LCM."""
    write(folder, "SDXL with guidance")
    shutil.rmtree(folder / "scheduler")
    spacing = {"timestep_spacing": "leading", "steps_offset": 1}
    diffusers.EulerDiscreteScheduler(**STABLE | spacing).save_pretrained(folder / "scheduler")
    write_lora(lora, diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"))


def write_lora(folder: Path, unet: nn.Module, rank: int = 3, alpha: float = 2.0) -> None:
    """Write a random LoRA under the names of LCM-LoRA's files, which are those of kohya's
    trainer."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, layer in unet.named_modules():
        if name.endswith(ADAPTED) and hasattr(layer, "weight"):
            outputs, inputs, *kernel = layer.weight.shape
            shapes = {"down": (rank, inputs, *kernel), "up": (outputs, rank, *([1] * len(kernel)))}
            key = f"lora_unet_{name.replace('.', '_')}"
            for part, shape in shapes.items():
                values = 0.3 * torch.randn(shape, generator=generator)
                tensors[f"{key}.lora_{part}.weight"] = values
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
    assert len(tensors) > 3 * 10
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")


def _vae(channels: int = 4, **more: Any) -> nn.Module:
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        mid_block_add_attention=False,
        norm_num_groups=2,
        latent_channels=channels,
        sample_size=8,
        scaling_factor=0.5,
        **more,
    )


def _clip(folder: Path, part: str, kind: str = "CLIPTextModel") -> dict[str, Any]:
    number = part.removeprefix("text_encoder")
    length = tiny.write_tokenizer(folder / f"tokenizer{number}")
    config = transformers.CLIPTextConfig(
        **{"vocab_size": length, "hidden_size": 8, "intermediate_size": 16, "projection_dim": 8},
        **{"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 12},
        **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
    )
    return {part: getattr(transformers, kind)(config)}


def _t5(part: str) -> dict[str, Any]:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]
    tokenizer = transformers.T5Tokenizer(
        vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0
    )
    config = transformers.T5Config(
        **{"vocab_size": len(tokenizer), "d_model": WIDTH, "d_kv": 8, "d_ff": 16},
        **{"num_layers": 1, "num_heads": 2, "feed_forward_proj": "gated-gelu"},
    )
    number = part.removeprefix("text_encoder")
    return {part: transformers.T5EncoderModel(config), f"tokenizer{number}": tokenizer}


def _stable_diffusion(folder: Path, twin: Twin) -> dict[str, Any]:
    return {"unet": _unet(cross_attention_dim=8, **twin.network), "vae": _vae()} | _clip(
        folder, "text_encoder"
    )


def _unet(**more: Any) -> nn.Module:
    return diffusers.UNet2DConditionModel(
        **{"sample_size": 4, "in_channels": 4, "out_channels": 4, "block_out_channels": (8,)},
        **{"down_block_types": ("CrossAttnDownBlock2D",), "mid_block_type": None},
        **{"up_block_types": ("CrossAttnUpBlock2D",), "layers_per_block": 1},
        **{"norm_num_groups": 4, "attention_head_dim": 2},
        **more,
    )


def _sdxl(folder: Path, twin: Twin) -> dict[str, Any]:
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    added["projection_class_embeddings_input_dim"] = 8 + 6 * 4
    unet = _unet(cross_attention_dim=16, use_linear_projection=True, **added, **twin.network)
    first = _clip(folder, "text_encoder")
    second = _clip(folder, "text_encoder_2", "CLIPTextModelWithProjection")
    return {"unet": unet, "vae": _vae()} | first | second


def _pixart(folder: Path, twin: Twin) -> dict[str, Any]:
    sizes = {"sample_size": 4} | twin.network
    transformer = diffusers.PixArtTransformer2DModel(
        **{"num_attention_heads": 2, "attention_head_dim": 6, "num_layers": 2, "patch_size": 2},
        **{"in_channels": 4, "out_channels": 8, "cross_attention_dim": 12},
        **{"caption_channels": WIDTH, "norm_type": "ada_norm_single"},
        **sizes,
    )
    return {"transformer": transformer, "vae": _vae()} | _t5("text_encoder")


def _sana(folder: Path, twin: Twin) -> dict[str, Any]:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS, *string.ascii_uppercase]
    tokenizer = transformers.GemmaTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[])
    config = transformers.Gemma2Config(
        **{"vocab_size": len(tokenizer), "hidden_size": 8, "intermediate_size": 16},
        **{"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2},
        **{"head_dim": 4, "max_position_embeddings": 4096},
    )
    transformer = diffusers.SanaTransformer2DModel(
        **{"in_channels": 4, "out_channels": 4, "num_layers": 2, "num_attention_heads": 2},
        # Wide enough that no query is orthogonal to all keys, where linear attention is 0/0.
        **{"attention_head_dim": 16, "num_cross_attention_heads": 2},
        **{"cross_attention_head_dim": 16, "cross_attention_dim": 32},
        **{"caption_channels": 8, "sample_size": 4, "patch_size": 1},
        **{"guidance_embeds": True, "qk_norm": "rms_norm_across_heads", "timestep_scale": 1000.0},
    )
    both = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in {
            "block_types": ("ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"),
            "block_out_channels": (4, 4, 4, 4),
            "qkv_multiscales": ((), (), (), (5,)),
            "layers_per_block": (1, 1, 1, 1),
        }.items()
    }
    vae = diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=2, scaling_factor=0.41, **both
    )
    text = {"text_encoder": transformers.Gemma2Model(config), "tokenizer": tokenizer}
    return {"transformer": transformer, "vae": vae} | text


def _sd3(folder: Path, twin: Twin) -> dict[str, Any]:
    sizes = {"joint_attention_dim": WIDTH} | twin.network
    transformer = diffusers.SD3Transformer2DModel(
        **{"sample_size": 4, "patch_size": 2, "in_channels": 4, "out_channels": 4},
        **{"num_layers": 2, "attention_head_dim": 4, "num_attention_heads": 2},
        **{"caption_projection_dim": 8, "pooled_projection_dim": 16, "pos_embed_max_size": 16},
        **{"qk_norm": "rms_norm", "dual_attention_layers": (0,)},
        **sizes,
    )
    vae = _vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06)
    first = _clip(folder, "text_encoder", "CLIPTextModelWithProjection")
    second = _clip(folder, "text_encoder_2", "CLIPTextModelWithProjection")
    return {"transformer": transformer, "vae": vae} | first | second | _t5("text_encoder_3")


def _flux(folder: Path, twin: Twin) -> dict[str, Any]:
    transformer = diffusers.FluxTransformer2DModel(
        **{"patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1},
        **{"attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": WIDTH},
        **{"pooled_projection_dim": 8, "axes_dims_rope": (2, 2, 4)},
        **twin.network,
    )
    vae = _vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06)
    return (
        {"transformer": transformer, "vae": vae}
        | _clip(folder, "text_encoder")
        | _t5("text_encoder_2")
    )


PARTS: dict[str, Callable[[Path, Twin], dict[str, Any]]] = {
    SD: _stable_diffusion,
    XL: _sdxl,
    SD3: _sd3,
    "PixArtAlphaPipeline": _pixart,
    "SanaSprintPipeline": _sana,
    "FluxPipeline": _flux,
}


def settings(name: str, model: object, steps: int = 4, **changes: Any) -> dict[str, Any]:
    """What names the model in settings of ours, as a configuration would; where timesteps are
    given, `steps` are as many."""
    twin = TWINS[name]
    steps = len(twin.options.get("timesteps", range(steps)))
    return {
        **{"policy": "consistency", "chain": twin.chain, "model": str(model)},
        **{"inference_steps": steps, "guidance_scale": twin.guidance_scale},
        **{"resolution": twin.pixels if twin.pipeline == "FluxPipeline" or twin.network else None},
        **twin.options,
        **changes,
    }


def load(name: str, model: object, steps: int = 4, dtype: torch.dtype = torch.float32):
    """Our policy over the model."""
    from rocm_core.configuration import ModelSettings
    from rocm_core.policies import load_policy

    return load_policy(ModelSettings(**settings(name, model, steps)), dtype=dtype)


def parts_of(pipeline: str) -> Mapping[str, str]:
    """The parts that we read of a diffusers pipeline, with their classes, by folder."""
    from rocm_core.policies.denoisers import (
        flux,
        pixart,
        sana,
        stable_diffusion as sd,
        stable_diffusion_3,
        stable_diffusion_xl as xl,
    )

    return {
        SD: sd.PARTS,
        "LatentConsistencyModelPipeline": sd.PARTS,
        XL: xl.StableDiffusionXL.parts,
        SD3: stable_diffusion_3.StableDiffusion3.parts,
        "PixArtAlphaPipeline": pixart.PixArt.parts,
        "SanaSprintPipeline": sana.Sana.parts,
        "FluxPipeline": flux.Flux.parts,
    }[pipeline]


def pipeline(name: str, model: object) -> Any:
    """diffusers' own, made of the folder's parts; where our chain is `flow`, it draws noise too."""
    from rocm_core.policies.denoisers.parts import load_parts

    twin, folder = TWINS[name], Path(str(model))
    classes = parts_of(twin.pipeline)
    there = {part: kind for part, kind in classes.items() if (folder / part).is_dir()}
    parts = dict.fromkeys(classes) | load_parts(folder, there)
    drawing = (
        {"stochastic_sampling": True} if (twin.scheduler, twin.chain) == (FLOW, "flow") else {}
    )
    scheduler = getattr(diffusers, twin.scheduler).from_pretrained(f"{model}/scheduler", **drawing)
    kind = getattr(diffusers, twin.pipeline)
    if twin.pipeline == SD:
        parts |= {"safety_checker": None, "feature_extractor": None}
        parts["requires_safety_checker"] = False
    made = kind(**parts, scheduler=scheduler)
    made.set_progress_bar_config(disable=True)
    return made


def their_images(name: str, made: Any, prompts: list[str], noise: torch.Tensor, patch: Any):
    """What diffusers' pipeline makes of the same noise, `(N, 3, H, W)` in [0, 1]."""
    twin, steps = TWINS[name], len(noise[0])
    draws = noise
    if twin.pipeline == "FluxPipeline":
        count, _, channels, *size = noise.shape
        packed = [made._pack_latents(part, count, channels, *size) for part in noise.unbind(1)]
        draws = torch.stack(packed, 1)
    left: Iterator[torch.Tensor] = iter(draws[:, 1:].unbind(1))
    zeros = torch.zeros_like(draws[:, 0])
    for module in ("lcm", "tcd", "scm", "flow_match_lcm", "flow_match_euler_discrete"):
        place = getattr(diffusers.schedulers, f"scheduling_{module}")
        patch.setattr(place, "randn_tensor", lambda *_, **__: next(left, zeros))
    place = diffusers.schedulers.scheduling_euler_ancestral_discrete
    patch.setattr(place, "randn_tensor", lambda *_, **__: next(left, zeros))
    asked = {"num_inference_steps": steps} | twin.asked
    if "timesteps" in asked:
        del asked["num_inference_steps"]
    if twin.scheduler == "SCMScheduler" and steps != 2:
        asked["intermediate_timesteps"] = None
    return made(
        prompts,
        guidance_scale=twin.guidance_scale,
        latents=draws[:, 0].clone(),
        height=twin.pixels,
        width=twin.pixels,
        output_type="pt",
        **asked,
    ).images
