"""A diffusion model with LCM-LoRA as a consistency policy, against diffusers' own pipeline."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import few_step
import pytest
import tiny
import torch
from few_step import ADAPTED, write_lora
from safetensors.torch import load_file, save_file

from rocm_core.configuration import ModelSettings
from rocm_core.errors import UserError
from rocm_core.policies import add_adapter, load_policy, lora_parameters
from rocm_core.training import train

PROMPTS = ["a red cat", "two dogs"]
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
    folder = tmp_path_factory.mktemp("models") / "lcm-lora"
    write_lora(folder, tiny.load_policy("diffusion", model, 4, 1.0).network, RANK, ALPHA)
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


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_images_of_sdxl_are_those_of_diffusers_with_the_lora_fused(tmp_path, monkeypatch, steps):
    """As config/few-step.yaml has it: without guidance, on a model with another scheduler."""
    from diffusers import EulerDiscreteScheduler, LCMScheduler

    name, folder, lora = "SDXL with guidance", tmp_path / "sdxl", tmp_path / "lora"
    few_step.write_with_lora(folder, lora)
    plain = replace(few_step.TWINS[name], guidance_scale=1.0)
    monkeypatch.setitem(few_step.TWINS, name, plain)
    settings = few_step.settings(name, folder, steps, model_lora=str(lora))
    policy = load_policy(ModelSettings(**settings))
    noise = policy.noise(0, ["a", "b"], "test")
    images = policy.decode(policy.rollout(policy.encode_prompts(PROMPTS), noise).latents)
    pipeline = few_step.pipeline(name, folder)
    published = EulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    pipeline.scheduler = LCMScheduler.from_config(published.config)
    base = few_step.their_images(name, pipeline, PROMPTS, noise, monkeypatch)
    pipeline.load_lora_weights(str(lora))
    pipeline.fuse_lora()
    wanted = few_step.their_images(name, pipeline, PROMPTS, noise, monkeypatch)
    torch.testing.assert_close(images, wanted, atol=1e-5, rtol=0)
    assert (images - base).abs().max() > 0.1


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


def spoil(tensors, kind):
    """Damage a LoRA in kohya's layout; returns its metadata and what is to be said of it."""
    layers = sorted({key.partition(".")[0] for key in tensors})
    first, second = (f"{layer}.lora_{{}}.weight" for layer in layers[:2])
    if kind in ("NaN", "infinity"):
        tensors[first.format("down")].flatten()[0] = float(kind)
        return {}, "is not finite"
    if kind == "integers":
        tensors[first.format("up")] = tensors[first.format("up")].to(torch.int32)
        return {}, "is of type int32"
    if kind == "half a pair":
        del tensors[first.format("down")]
        return {}, layers[0]
    if kind == "unknown layer":
        tensors |= {
            f"lora_unet_elsewhere_conv1.lora_{part}.weight": tensors[second.format(part)].clone()
            for part in ("up", "down")
        }
        return {}, "elsewhere"
    if kind == "DoRA":
        tensors[f"{layers[0]}.dora_scale"] = torch.ones(3)
        return {}, "is of a DoRA"
    if kind in ("alpha 0", "alpha -1", "alpha nan"):
        for layer in layers:
            tensors[f"{layer}.alpha"] = torch.tensor(float(kind.split()[1]))
        return {}, "is not finite" if kind == "alpha nan" else "is not a positive number"
    if kind == "alphas of some":
        del tensors[f"{layers[0]}.alpha"]
        return {}, "not each layer has an alpha"
    if kind == "an alpha of its own":
        layer = next(layer for layer in layers if layer.endswith("attn1_to_q"))
        tensors[f"{layer}.alpha"] = torch.tensor(1.0)
        return {}, "not each layer has an alpha, or not one that diffusers can assign"
    settings = {"unet.r": RANK, "unet.lora_alpha": ALPHA, "unet.target_modules": [*ADAPTED]}
    for layer in layers:
        del tensors[f"{layer}.alpha"]
    if kind == "rank -1":
        return settings | {"unet.r": -1}, "its rank is -1"
    if kind == "metadata names more":
        return settings | {"unet.target_modules": [*ADAPTED, "conv_in"]}, "conv_in is missing"
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    ["NaN", "infinity", "integers", "half a pair", "unknown layer", "DoRA", "alpha 0", "alpha -1"]
    + ["alpha nan", "alphas of some", "an alpha of its own", "rank -1", "metadata names more"],
)
@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters")
def test_a_lora_is_merged_whole_or_not_at_all(model, lora, tmp_path, kind):
    tensors = load_file(Path(lora) / "pytorch_lora_weights.safetensors")
    settings, said = spoil(tensors, kind)
    metadata = {"lora_adapter_metadata": json.dumps(settings)} if settings else None
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors", metadata)
    with pytest.raises(UserError, match="is not a LoRA of this U-Net") as caught:
        tiny.load_policy("consistency", model, 4, 1.0, lora=str(tmp_path))
    assert said in str(caught.value) and "\n" not in caught.value.args[0]


def test_a_lora_with_metadata_or_with_integer_alphas_is_merged_alike(model, lora, tmp_path):
    def merged(name, tensors, settings=None):
        (tmp_path / name).mkdir()
        metadata = {"lora_adapter_metadata": json.dumps(settings)} if settings else None
        save_file(tensors, tmp_path / name / "any.safetensors", metadata)
        policy = tiny.load_policy("consistency", model, 4, 1.0, lora=str(tmp_path / name))
        return policy.network.state_dict()

    kohya = load_file(Path(lora) / "pytorch_lora_weights.safetensors")
    expected = tiny.load_policy("consistency", model, 4, 1.0, lora=lora).network.state_dict()
    alphas = {k: v.to(torch.int64) if k.endswith(".alpha") else v for k, v in kohya.items()}
    named = {f"unet.{k}": v for k, v in _in_pefts_names(model, kohya).items()}
    settings = {"unet.r": RANK, "unet.lora_alpha": ALPHA, "unet.target_modules": [*ADAPTED]}
    for weights in (merged("integers", alphas), merged("peft", named, settings)):
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[key], value) for key, value in expected.items())


def _in_pefts_names(model, kohya):
    names = {"lora_down": "lora_A", "lora_up": "lora_B"}
    return {
        f"{name}.{names[part]}.weight": kohya[f"lora_unet_{name.replace('.', '_')}.{part}.weight"]
        for name, _ in tiny.load_policy("diffusion", model, 4, 1.0).network.named_modules()
        for part in names
        if f"lora_unet_{name.replace('.', '_')}.{part}.weight" in kohya
    }
