"""Random latent models so small that tests can afford exact gradients: 8×8 images."""

import json
from pathlib import Path

import torch

from rocm_core.prompts import Prompt
from rocm_core.rewards import Reward

PROMPTS = [
    Prompt(f"p{i}", text, "test") for i, text in enumerate(["cat", "dog", "a b", "x", "fox"])
]
LATENT = (4, 4, 4)
CHAINS = {"consistency": "lcm", "diffusion": "ddim"}
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1")


def write_pipeline(
    folder: Path,
    prediction_type: str = "epsilon",
    seed: int = 0,
    policy: str = "consistency",
    **scheduler: object,
) -> Path:
    """Write a diffusers folder of random weights; `scheduler`: further settings of it."""
    from diffusers import AutoencoderKL, DDIMScheduler, LCMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    length = write_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=LATENT[1],
            in_channels=LATENT[0],
            out_channels=LATENT[0],
            block_out_channels=(8,),
            down_block_types=("CrossAttnDownBlock2D",),
            mid_block_type=None,
            up_block_types=("CrossAttnUpBlock2D",),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=2,
            cross_attention_dim=8,
            time_cond_proj_dim=6 if policy == "consistency" else None,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            mid_block_add_attention=False,
            norm_num_groups=4,
            latent_channels=LATENT[0],
            sample_size=8,
            scaling_factor=0.5,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=length,
                hidden_size=8,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=12,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
    kind = {"prediction_type": prediction_type}
    if policy == "consistency":
        noise = LCMScheduler(**kind | {"original_inference_steps": 50} | scheduler)
    else:
        stable_diffusions = {"beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
        stable_diffusions |= {"beta_schedule": "scaled_linear", "set_alpha_to_one": False}
        noise = DDIMScheduler(**kind | stable_diffusions | {"clip_sample": False} | scheduler)
    kinds = {
        "consistency": "LatentConsistencyModelPipeline",
        "diffusion": "StableDiffusionPipeline",
    }
    (folder / "model_index.json").write_text(json.dumps({"_class_name": kinds[policy]}))
    noise.save_pretrained(folder / "scheduler")
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    text_encoder.save_pretrained(folder / "text_encoder")
    return folder


def write_tokenizer(folder: Path) -> int:
    """A CLIP tokenizer that spells in letters; returns the size of its vocabulary."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = [
        "<|startoftext|>",
        "<|endoftext|>",
        *letters,
        *(f"{letter}</w>" for letter in letters),
    ]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder), model_max_length=12)
    tokenizer.save_pretrained(folder)
    return len(tokens)


class Brightness(Reward):
    """A differentiable reward: a weighted mean of squares, times a weight of the prompt's."""

    name = "brightness"
    differentiable = True

    def score(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        weights = torch.tensor([1 + len(prompt) / 10 for prompt in prompts]).to(images)
        ramp = torch.linspace(0.5, 1.5, images.shape[-1]).to(images)
        return weights * (images.square() * ramp).mean((1, 2, 3))


def load_policy(
    policy: str,
    model: str,
    steps: int,
    guidance_scale: float,
    dtype: torch.dtype = torch.float32,
    lora: str | None = None,
    device: str = "cpu",
):
    """The policy of a name in the configuration, with the chain that it has by default."""
    from rocm_core import policies
    from rocm_core.configuration import ModelSettings

    settings = ModelSettings(
        policy=policy,
        chain=CHAINS[policy],
        model=model,
        inference_steps=steps,
        guidance_scale=guidance_scale,
        model_lora=lora,
    )
    return policies.load_policy(settings, device, dtype)


def pipeline_images(policy, kind: str, model: str, prompts: list[str], noise, patch, lora=None):
    """What diffusers' pipeline makes of the same noise, `(N, 3, H, W)` in [0, 1].

    kind: of the policy, as in the configuration. lora: a file that the pipeline is to load.
    """
    import diffusers

    name, scheduler, module, options = {
        "consistency": ("LatentConsistencyModelPipeline", "LCMScheduler", "lcm", {}),
        "diffusion": ("StableDiffusionPipeline", "DDIMScheduler", "ddim", {"eta": 1.0}),
    }[kind]
    bare = load_policy(kind, model, 1, 1.0)  # its own U-Net, without our adapter
    pipeline = getattr(diffusers, name)(
        unet=bare.network,
        scheduler=getattr(diffusers, scheduler).from_pretrained(f"{model}/scheduler"),
        **{part: getattr(policy.denoiser, part) for part in ("vae", "text_encoder", "tokenizer")},
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(str(lora))
    draws, place = iter(noise[:, 1:].unbind(1)), f"diffusers.schedulers.scheduling_{module}"
    patch.setattr(f"{place}.randn_tensor", lambda *_, **__: next(draws))
    # The pipelines ask for image sizes in multiples of 8, as here; latents are half as large.
    return pipeline(
        prompts,
        height=8,
        width=8,
        num_inference_steps=policy.steps,
        guidance_scale=policy.denoiser.guidance_scale,
        latents=noise[:, 0].clone(),
        output_type="pt",
        **options,
    ).images


def peak_bytes(policy, algorithm, batch) -> int:
    """Most bytes of tensors alive in a step, weights and AdamW's moments added by hand."""
    from rocm_core.policies import lora_parameters
    from rocm_core.training import LiveBytes

    with LiveBytes(policy.device) as live:
        loss, _ = algorithm.loss(policy, Brightness(), batch)
        loss.backward()
        del loss
    policy.network.zero_grad()
    weights = sum(t.numel() * t.element_size() for t in [*policy.parameters(), *policy.buffers()])
    adapter = sum(p.numel() * p.element_size() for p in lora_parameters(policy.network).values())
    return live.most() + weights + 2 * adapter


def perturb(network: torch.nn.Module, size: float = 0.3, seed: int = 1) -> None:
    """Move every parameter of the adapter away from where it started, by N(0, size²)."""
    from rocm_core.policies import gaussian, lora_parameters

    with torch.no_grad():
        for name, parameter in lora_parameters(network).items():
            parameter += size * gaussian(seed, [name], tuple(parameter.shape), "perturb")[0]


def settings(**changes: object):
    """Training settings for the tiny model; `model` and what else matters is to be given."""
    from rocm_core.configuration import settings_class

    values = {
        "reward": "brightness",
        "scorer": None,
        "policy": "consistency",
        "model": "",
        "inference_steps": 3,
        "guidance_scale": 4.0,
        "algorithm": "direct",
        "divergence": "none",
        "beta": 0.0,
        "learning_rate": 1e-2,
        "batch_size": 2,
        "iterations": 6,
        "lora_targets": TARGETS,
        "lora_rank": 2,
        "lora_alpha": 6.0,
        "snapshot_every": 0,
        "seed": 0,
    }
    values |= {"chain": CHAINS[str(changes.get("policy", "consistency"))]} | changes
    return settings_class(str(values["algorithm"]), "algorithm")(**values)


def generation_settings(**changes: object):
    """Settings of images of the tiny model; `model` is to be given."""
    from rocm_core.configuration import GenerationSettings

    values = {"policy": "consistency", "chain": "lcm", "inference_steps": 4, "guidance_scale": 3.0}
    return GenerationSettings(**(values | changes))


def write_package(folder: Path, package: str, module: str) -> str:
    """Put what docs/adding.md shows for `module` into a package of the user's own; its name."""
    path = folder / package / Path(module).name
    path.parent.mkdir(exist_ok=True)
    path.write_text(documented(module))
    return f"{package}.{path.stem}"


def documented(module: str) -> str:
    """The source that docs/adding.md shows for `module`, a path."""
    text = (Path(__file__).parents[1] / "docs" / "adding.md").read_text(encoding="utf-8")
    return text.split(f"`{module}`:\n\n```python\n")[1].split("```")[0]
