"""A diffusion model with LCM-LoRA as a consistency policy, against diffusers' own pipeline."""

import csv
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from rocm_core.errors import UserError
from rocm_core.policies import add_adapter, lora_parameters
from rocm_core.training import train

PROMPTS = ["a red cat", "two dogs"]
# The layers that the published LoRA of Stable Diffusion 1.5 adapts.
ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
ADAPTED += ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "0.conv")
RANK, ALPHA = 3, 2.0


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """Stable Diffusion's layout: no embedding of the guidance scale, and its PNDMScheduler."""
    from diffusers import DDIMScheduler, PNDMScheduler

    folder = tiny.write_pipeline(tmp_path_factory.mktemp("models") / "sd", policy="diffusion")
    config = DDIMScheduler.from_pretrained(folder / "scheduler").config
    shutil.rmtree(folder / "scheduler")
    PNDMScheduler.from_config(config, skip_prk_steps=True).save_pretrained(folder / "scheduler")
    return str(folder)


@pytest.fixture(scope="module")
def lora(model, tmp_path_factory) -> str:
    """A random LoRA under the names of the published file, which are those of kohya's trainer."""
    folder = tmp_path_factory.mktemp("models") / "lcm-lora"
    folder.mkdir()
    torch.manual_seed(3)
    tensors = {}
    for name, layer in tiny.load_policy("diffusion", model, 4, 1.0).network.named_modules():
        if name.endswith(ADAPTED) and hasattr(layer, "weight"):
            outputs, inputs, *kernel = layer.weight.shape
            shapes = {"down": (RANK, inputs, *kernel), "up": (outputs, RANK, *([1] * len(kernel)))}
            key = f"lora_unet_{name.replace('.', '_')}"
            for part, shape in shapes.items():
                tensors[f"{key}.lora_{part}.weight"] = torch.randn(shape) * 0.3
            tensors[f"{key}.alpha"] = torch.tensor(ALPHA)
    assert len(tensors) > 3 * 10
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")
    return str(folder)


def pipeline_images(model, lora, noise, steps, guidance_scale, monkeypatch):
    """As LCM-LoRA's model card uses it: load the LoRA, fuse it, replace the scheduler."""
    from diffusers import LCMScheduler, PNDMScheduler, StableDiffusionPipeline
    from diffusers.schedulers import scheduling_lcm

    base = tiny.load_policy("diffusion", model, 4, 1.0)
    parts = {n: getattr(base.denoiser, n) for n in ("vae", "text_encoder", "tokenizer")}
    parts |= {"unet": base.network}
    parts |= {"scheduler": PNDMScheduler.from_pretrained(f"{model}/scheduler")}
    empty = dict.fromkeys(("safety_checker", "feature_extractor"))
    pipeline = StableDiffusionPipeline(**parts, **empty, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    if lora:
        pipeline.load_lora_weights(lora)
        pipeline.fuse_lora()
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    draws = iter(noise[:, 1:].unbind(1))
    monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda *_, **__: next(draws))
    options = {"guidance_scale": guidance_scale, "latents": noise[:, 0].clone()}
    return pipeline(PROMPTS, num_inference_steps=steps, output_type="pt", **options).images


@torch.no_grad()
@pytest.mark.parametrize(("steps", "guidance_scale"), [(4, 1.0), (4, 1.7), (8, 0.5), (1, 1.0)])
def test_images_are_those_of_diffusers_with_the_lora_fused(
    model, lora, steps, guidance_scale, monkeypatch
):
    policy = tiny.load_policy("consistency", model, steps, guidance_scale, lora=lora)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    noise = policy.noise(0, ["a", "b"], "test")
    embeddings = policy.encode_prompts(PROMPTS)
    images = policy.decode(policy.rollout(embeddings, noise).latents)
    wanted = pipeline_images(model, lora, noise, steps, guidance_scale, monkeypatch)
    torch.testing.assert_close(images, wanted, atol=1e-5, rtol=0)
    assert policy.nfe == 2 * steps * (2 if guidance_scale > 1 else 1)
    plain = pipeline_images(model, None, noise, steps, guidance_scale, monkeypatch)
    assert (images - plain).abs().max() > 0.01
    tiny.perturb(policy.network)
    assert (policy.decode(policy.rollout(embeddings, noise).latents) - images).abs().max() > 1e-3
    with policy.reference():  # the model with LCM-LoRA and without our adapter
        reference = policy.decode(policy.rollout(embeddings, noise).latents)
    torch.testing.assert_close(reference, images, atol=1e-5, rtol=0)


def test_a_cell_trains_on_it_and_its_lora_holds_our_layers_only(model, lora, reward, tmp_path):
    settings = tiny.settings(
        model=model, model_lora=lora, guidance_scale=1.0, iterations=2, divergence="kl", beta=0.1
    )
    train(settings, tiny.PROMPTS, tmp_path / "out", tmp_path / "state", "code")
    with open(tmp_path / "out/history.csv", newline="") as file:
        assert len([*csv.DictReader(file)]) == 2
    names = load_file(tmp_path / "out/lora.safetensors")
    policy = tiny.load_policy("consistency", model, 2, 1.0, lora=lora)
    add_adapter(policy.network, 2, 6.0, settings.lora_targets, seed=0)
    assert {n.removeprefix("unet.") for n in names} == set(lora_parameters(policy.network))
    assert settings.weights[:2] == [model, lora]


def test_a_diffusion_model_needs_the_lora_and_the_lora_its_model(model, lora, tmp_path):
    with pytest.raises(UserError, match="not a consistency model: .* or a LoRA that makes it one"):
        tiny.load_policy("consistency", model, 4, 1.0)
    tensors = load_file(Path(lora) / "pytorch_lora_weights.safetensors")
    file = tmp_path / "pytorch_lora_weights.safetensors"
    key = next(key for key in tensors if key.endswith("to_q.lora_down.weight"))
    for damaged in (
        tensors | {key: tensors[key][:, :-1].contiguous()},
        {name.replace("lora_unet_", "lora_te_"): value for name, value in tensors.items()},
    ):
        save_file(damaged, file)
        with pytest.raises(UserError, match="is not a LoRA of this U-Net") as caught:
            tiny.load_policy("consistency", model, 4, 1.0, lora=str(tmp_path))
        assert "\n" not in str(caught.value)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="is not a LoRA of this U-Net"):
        tiny.load_policy("consistency", model, 4, 1.0, lora=str(tmp_path))
