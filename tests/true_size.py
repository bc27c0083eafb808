"""Published few-step models at their true size, of tensors without storage.

`python tests/true_size.py` prints what docs/reproducing.md says of their operations and memory.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import handle_torch_function, has_torch_function
from torch.utils.flop_counter import FlopCounterMode

from rocm_core.algorithms import Batch
from rocm_core.plugins import load
from rocm_core.policies import HIDDEN, MODES, Policy, add_adapter
from rocm_core.policies.chains import Schedule
from rocm_core.training import GIB, predict_peak

META = torch.device("meta")
KL = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
SIXTEEN = KL | {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@dataclass(frozen=True)
class Model:
    """What a model's configuration files say; shapes of its embeddings of one prompt."""

    denoiser: str
    network: tuple[str, dict[str, Any]]
    vae: tuple[str, dict[str, Any]]
    chain: tuple[str, str, dict[str, Any]]  # scheduler, name, settings
    embeddings: dict[str, tuple[int, ...]]
    guidance_scale: float = 1.0
    parameters: float = 0.0  # of the network, in billions, as its authors say


MODELS = {
    "SDXL": Model(
        "stable_diffusion_xl",
        (
            "UNet2DConditionModel",
            {
                "sample_size": 128,
                "cross_attention_dim": 2048,
                "block_out_channels": (320, 640, 1280),
                "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
                "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
                "transformer_layers_per_block": (1, 2, 10),
                "attention_head_dim": (5, 10, 20),
                "use_linear_projection": True,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            },
        ),
        ("AutoencoderKL", KL),
        ("LCMScheduler", "lcm", STABLE),
        {HIDDEN: (77, 2048), "pooled": (1280,)},
        parameters=2.57,
    ),
    "PixArt-α": Model(
        "pixart",
        (
            "PixArtTransformer2DModel",
            {"sample_size": 128, "caption_channels": 4096, "cross_attention_dim": 1152},
        ),
        ("AutoencoderKL", KL),
        ("LCMScheduler", "lcm", STABLE),
        {HIDDEN: (120, 4096), "mask": (120,)},
        parameters=0.61,
    ),
    "SANA-Sprint": Model(
        "sana",
        (
            "SanaTransformer2DModel",
            {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads", "timestep_scale": 1000.0},
        ),
        (
            "AutoencoderDC",
            {
                "encoder_block_types": (*("ResBlock",) * 3, *("EfficientViTBlock",) * 3),
                "decoder_block_types": (*("ResBlock",) * 3, *("EfficientViTBlock",) * 3),
                "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
                "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
            },
        ),
        ("SCMScheduler", "scm", {}),
        {HIDDEN: (300, 2304), "mask": (300,)},
        guidance_scale=4.5,
        parameters=1.6,
    ),
    "SD3.5-large": Model(
        "stable_diffusion_3",
        (
            "SD3Transformer2DModel",
            {
                "num_layers": 38,
                "attention_head_dim": 64,
                "num_attention_heads": 38,
                "caption_projection_dim": 2432,
                "pos_embed_max_size": 192,
                "qk_norm": "rms_norm",
            },
        ),
        ("AutoencoderKL", SIXTEEN),
        ("FlowMatchEulerDiscreteScheduler", "flow", {"shift": 3.0}),
        {HIDDEN: (333, 4096), "pooled": (2048,)},
        parameters=8.06,
    ),
    "FLUX.1": Model(
        "flux",
        ("FluxTransformer2DModel", {}),
        ("AutoencoderKL", SIXTEEN),
        ("FlowMatchEulerDiscreteScheduler", "flow", {}),
        {HIDDEN: (256, 4096), "pooled": (768,)},
        parameters=11.9,
    ),
}


def policy(name: str, steps: int, dtype: torch.dtype = torch.float32, **network: Any) -> Policy:
    """A policy of images of 1024 pixels with an adapter; `network`: other settings, fewer layers
    say."""
    from diffusers.loaders import PeftAdapterMixin

    model = MODELS[name]
    module = load("denoisers", model.denoiser)
    kind = next(c for c in vars(module).values() if getattr(c, "kind", None) and c.parts)
    with META:
        made = getattr(diffusers, model.network[0])(**model.network[1] | network)
        vae = getattr(diffusers, model.vae[0])(**model.vae[1])
    if not hasattr(made, "add_adapter"):  # PixArt's, which its denoiser gives one when it loads
        made.__class__ = type("WithAdapter", (type(made), PeftAdapterMixin), {})
    parts = dict.fromkeys(kind.parts) | {"vae": vae, kind.network_name: made}
    pipeline = getattr(diffusers, kind.kind)(**parts, scheduler=None)
    denoiser = kind(pipeline, model.guidance_scale, META, dtype)
    denoiser.autocast = contextlib.nullcontext  # there is none for tensors without storage
    if denoiser.resolution != 1024:
        denoiser.resolution = 1024
    scheduler, chain, settings = model.chain
    made_of = Schedule(name, settings | {"_class_name": scheduler}, tokens=denoiser.tokens)
    found = Policy(denoiser, load("chains", chain).make(made_of, steps))
    add_adapter(found.network, 16, 32.0, ["to_q", "to_k", "to_v", "to_out.0"], seed=0)
    return found


def embeddings(name: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Of one prompt."""
    shapes = MODELS[name].embeddings.items()
    return {key: torch.empty(1, *shape, device=META, dtype=dtype) for key, shape in shapes}


def tera(function: Any) -> float:
    """TFLOP of a call, with plain attention, of which the counter knows all kinds of tensors."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / 1e12


def passes(found: Policy, text: dict[str, Tensor]) -> tuple[float, float]:
    """TFLOP of the bare network's forward pass, and of forward and backward together."""
    denoiser = found.denoiser
    time = torch.zeros((), device=META)
    state = torch.empty(1, *denoiser.latent_shape, device=META)

    def forward(grad: bool) -> None:
        given = state.clone().requires_grad_(grad)
        output = denoiser.evaluate(given.to(denoiser.dtype), time, text)
        if grad:
            output.sum().backward()

    with torch.no_grad():
        alone = tera(functools.partial(forward, False))
    return alone, tera(functools.partial(forward, True))


def decoding(found: Policy) -> float:
    """TFLOP of the decoder's forward and backward pass."""
    latents = torch.empty(1, *found.denoiser.latent_shape, device=META)

    def both() -> None:
        found.denoiser.vae.decode(latents.clone().requires_grad_())[0].sum().backward()

    return tera(both)


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **more: Any
) -> Any:
    """torch's memory-efficient attention, of pairs too."""
    given = query, key, value
    if has_torch_function(given):
        return handle_torch_function(fused_attention, given, *given, attn_mask=attn_mask)
    if attn_mask is not None:
        attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(*given, attn_mask, True)[0]


class Brightness(nn.Module):
    """A reward without weights."""

    def score(self, images: Tensor, prompts: Any) -> Tensor:
        return images.mean((1, 2, 3))


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Tensors without storage have no autocast, and their attention is not fused by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
        patch.setattr(functional, "scaled_dot_product_attention", fused_attention)
        yield


def peak(name: str, mode: str) -> float:
    """GiB of a step of ROCM with a divergence on one image in bfloat16, with a ViT-H as reward."""
    vit = 3.7  # in float32
    with as_on_a_gpu():
        low = policy(name, 4, torch.bfloat16)
        noise = torch.empty(1, 1 + len(low.stds), *low.denoiser.latent_shape, device=META)
        batch = Batch(["a cat"], embeddings(name, torch.bfloat16), noise)
        return predict_peak(low, Brightness(), batch, "full", mode) / GIB + vit


def main() -> None:
    """Print the tables of docs/reproducing.md."""
    for name in sys.argv[1:] or MODELS:
        found = policy(name, 4)
        count = sum(p.numel() for k, p in found.network.named_parameters() if "lora" not in k)
        forward, both = passes(found, embeddings(name))
        print(f"{name}: {count / 1e9:.2f} B, {forward:.2f}, {both:.2f}, {decoding(found):.2f}")
        for mode in MODES:
            print(f"  {mode}: {peak(name, mode):.1f} GiB", flush=True)


if __name__ == "__main__":
    main()
