"""The consistency policy against diffusers' own pipeline and scheduler."""

import json
import math
import re
import shutil

import pytest
import tiny
import torch

from rocm_core.configuration import ModelSettings
from rocm_core.errors import UserError, warn
from rocm_core.policies import (
    HIDDEN,
    MODES,
    add_adapter,
    load_policy,
    lora_parameters,
    save_lora,
)
from rocm_core.policies.denoisers.stable_diffusion import guidance_embedding
from rocm_core.shapes.scenes import sample_captions

PROMPTS = ["a red cat", "two dogs", "x"]
KIND = "consistency"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny.write_pipeline(tmp_path_factory.mktemp("models") / "tiny"))


def load(model, steps=4, guidance_scale=3.0, dtype=torch.float32, adapter=True):
    policy = tiny.load_policy("consistency", model, steps, guidance_scale, dtype=dtype)
    if adapter:
        add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
        tiny.perturb(policy.network)
    return policy


@pytest.mark.parametrize(
    ("steps", "guidance_scale", "scheduler"),
    [
        (1, 3.0, {}),
        (2, 3.0, {}),
        (4, 7.5, {}),
        (8, 1.5, {}),
        (4, 3.0, {"prediction_type": "v_prediction"}),
        (4, 3.0, {"prediction_type": "sample"}),
        (4, 3.0, {"clip_sample": True, "clip_sample_range": 0.8}),
        (5, 3.0, {"beta_schedule": "linear", "timestep_scaling": 0.001}),
    ],
)
def test_images_equal_the_pipelines(tmp_path, monkeypatch, steps, guidance_scale, scheduler):
    model = str(tiny.write_pipeline(tmp_path / "model", **scheduler))
    policy = load(model, steps, guidance_scale, adapter=False)
    noise = policy.noise(0, ["a", "b", "c"], "test")
    with torch.no_grad():
        ours = policy.decode(policy.rollout(policy.encode_prompts(PROMPTS), noise).latents)
    theirs = tiny.pipeline_images(policy, KIND, model, PROMPTS, noise, monkeypatch)
    assert ours.shape == theirs.shape == (3, 3, 8, 8)
    assert 0.05 < theirs.std() and (ours - theirs).abs().max() <= 1e-5


def test_an_exported_lora_gives_the_same_images_in_a_plain_pipeline(model, tmp_path, monkeypatch):
    policy = load(model)  # alpha is three times the rank
    noise = policy.noise(0, ["a", "b"], "test")
    embeddings = policy.encode_prompts(PROMPTS[:2])
    save_lora(tmp_path / "lora.safetensors", policy.network)
    with torch.no_grad():
        ours = policy.decode(policy.rollout(embeddings, noise).latents)
    path = tmp_path / "lora.safetensors"
    asked = policy, KIND, model, PROMPTS[:2], noise, monkeypatch
    theirs = tiny.pipeline_images(*asked, lora=path)
    assert (ours - theirs).abs().max() <= 1e-5
    base = tiny.pipeline_images(*asked)
    assert (theirs - base).abs().max() > 0.05


def test_timesteps_are_those_of_diffusers_since_0_25(model):
    expected = [999, 879, 759, 639, 499, 379, 259, 139]
    assert load(model, steps=8).timesteps.tolist() == expected


@pytest.mark.parametrize("width", [6, 7, 256])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0, 7.5])
def test_the_guidance_embedding_is_the_pipelines(width, guidance_scale):
    from diffusers import LatentConsistencyModelPipeline

    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(
        None, torch.tensor(guidance_scale - 1)[None], width
    )
    assert torch.equal(guidance_embedding(guidance_scale, width), theirs)


@pytest.mark.parametrize("mode", MODES)
def test_guidance_reaches_the_unet_also_where_it_is_checkpointed(model, mode):
    results = []
    for guidance_scale in (1.0, 7.5):
        policy = load(model, guidance_scale=guidance_scale)
        noise, embeddings = policy.noise(0, ["a"], "test"), policy.encode_prompts(PROMPTS[:1])
        policy.activation_checkpointing = mode
        latents = policy.rollout(embeddings, noise).latents
        gradients = torch.autograd.grad(
            latents.square().sum(), lora_parameters(policy.network).values()
        )
        results.append((latents.detach(), torch.cat([g.flatten() for g in gradients])))
    (low, low_gradient), (high, high_gradient) = results
    assert (low - high).abs().max() > 1e-3
    assert (low_gradient - high_gradient).abs().max() > 1e-3


def test_transitions_are_the_schedules_gaussians(model):
    from diffusers import LCMScheduler

    policy = load(model)
    noise = policy.noise(0, ["a", "b"], "test")
    with torch.no_grad():
        trajectory = policy.rollout(policy.encode_prompts(PROMPTS[:2]), noise)
    cumulative = LCMScheduler.from_pretrained(f"{model}/scheduler").alphas_cumprod
    assert torch.equal(trajectory.transitions[0].state, noise[:, 0])
    assert [step.timestep for step in trajectory.transitions] == policy.timesteps.tolist()[:-1]
    states = [*(step.state for step in trajectory.transitions[1:]), None]
    for i, (step, following) in enumerate(zip(trajectory.transitions, states, strict=True)):
        variance = 1 - cumulative[policy.timesteps[i + 1]]
        assert float(step.std) == pytest.approx(math.sqrt(variance), rel=1e-6)
        assert torch.allclose(step.next_state, step.mean + step.std * noise[:, i + 1])
        assert following is None or torch.equal(following, step.next_state)


def test_the_reference_is_the_model_without_its_adapter(model):
    policy, plain = load(model), load(model, adapter=False)
    noise, embeddings = policy.noise(0, ["a", "b"], "test"), policy.encode_prompts(PROMPTS[:2])
    for mode in ("full", "stop"):
        trajectory = policy.rollout(embeddings, noise, reference=mode)
        squared = []
        for index, step in enumerate(trajectory.transitions):
            expected = plain.mean(index, step.state, embeddings)
            assert torch.allclose(step.reference_mean, expected, atol=1e-6)
            squared.append(((step.mean - expected) / step.std).square().sum((1, 2, 3)))
        expected = torch.stack(squared, 1)
        assert torch.allclose(trajectory.squared_distances("sum"), expected, rtol=1e-4)
        means = trajectory.squared_distances("mean")
        assert torch.allclose(means * math.prod(tiny.LATENT), expected, rtol=1e-4)
        assert (expected > 1e-3).all()


def test_without_a_reference_there_is_no_distance_and_one_step_has_no_transition(model):
    policy = load(model, steps=1)
    trajectory = policy.rollout(
        policy.encode_prompts(PROMPTS), policy.noise(0, ["a", "b", "c"], "test"), reference="full"
    )
    assert trajectory.squared_distances().shape == (3, 0)
    policy = load(model, steps=2)
    trajectory = policy.rollout(policy.encode_prompts(PROMPTS[:1]), policy.noise(0, ["a"], "test"))
    with pytest.raises(ValueError, match="without a reference"):
        trajectory.squared_distances()


def test_every_image_has_its_own_noise(model):
    policy = load(model)
    noise = policy.noise(7, ["a", "b"], "test")
    assert noise.shape == (2, 4, *tiny.LATENT)
    assert torch.equal(policy.noise(7, ["b"], "test")[0], noise[1])


def test_passes_are_counted_per_image_and_once(model):
    policy = load(model)
    noise, embeddings = policy.noise(0, ["a", "b"], "test"), policy.encode_prompts(PROMPTS[:2])
    policy.rollout(embeddings, noise)
    assert policy.nfe == 2 * 4
    policy.activation_checkpointing = "block"
    policy.rollout(embeddings, noise, reference="stop").latents.sum().backward()
    assert policy.nfe == 2 * 4 + 2 * (4 + 3)


def test_a_rollout_reads_nothing_back_from_the_device(model, monkeypatch):
    policy = load(model)
    noise, embeddings = policy.noise(0, ["a"], "test"), policy.encode_prompts(PROMPTS[:1])

    def refuse(*_):
        raise AssertionError("this would wait for the device")

    for name in ("item", "tolist", "numpy", "__float__", "__int__", "__bool__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    policy.activation_checkpointing = "step"
    for reference in (None, "full", "stop"):
        trajectory = policy.rollout(embeddings, noise, reference)
    loss = trajectory.squared_distances().sum() + policy.decode(trajectory.latents).sum()
    loss.backward()


def test_chains_run_in_double_precision_and_not_below_single(model):
    for dtype, expected in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        policy = load(model, dtype=dtype)
        noise, embeddings = policy.noise(0, ["a"], "test"), policy.encode_prompts(PROMPTS[:1])
        trajectory = policy.rollout(embeddings, noise, reference="full")
        assert embeddings[HIDDEN].dtype == dtype
        assert trajectory.latents.dtype == trajectory.transitions[0].mean.dtype == expected
        assert policy.decode(trajectory.latents).dtype == expected


def test_long_prompts_are_cut_and_short_ones_padded(model):
    policy = load(model)
    long = "abcdefghijklmnopqrstuvwxyz"
    embeddings = policy.encode_prompts([long, long[:20], "a"])[HIDDEN]
    assert embeddings.shape == (3, 12, 8)
    assert torch.equal(embeddings[0, :10], embeddings[1, :10])


def test_folders_that_are_no_consistency_model_are_refused(model, tmp_path):
    with pytest.raises(
        UserError, match="absent is not a folder of a diffusers pipeline: model_ind"
    ):
        tiny.load_policy("consistency", str(tmp_path / "absent"), 4, 3.0)
    with pytest.raises(UserError, match="inference_steps must be 1 … 50 .*, not 51"):
        tiny.load_policy("consistency", model, 51, 3.0)

    other = tmp_path / "other"
    shutil.copytree(model, other)
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "DDIMScheduler"}))
    with pytest.raises(UserError, match="other is not a consistency model"):
        tiny.load_policy("consistency", str(other), 4, 3.0)

    shutil.copy(f"{model}/scheduler/scheduler_config.json", config)
    weights = other / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match="other/unet cannot be loaded"):
        tiny.load_policy("consistency", str(other), 4, 3.0)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("kind", ["NaN", "-infinity", "integers"])
def test_weights_that_are_not_finite_are_refused(model, tmp_path, part, kind):
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(model, other)
    (file,) = (other / part).glob("*.safetensors")
    tensors = load_file(file)
    key = max(key for key in tensors if key.endswith("weight"))
    if kind == "integers":
        tensors[key], said = tensors[key].to(torch.int8), f"{key} is of type I8"
    else:
        tensors[key].flatten()[-1], said = float(kind), f"{key} is not finite"
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UserError) as caught:
        tiny.load_policy("consistency", str(other), 4, 3.0)
    assert said in str(caught.value) and str(other) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [*(("beta_end", value) for value in ("NaN", "1e999", "-5")), ("timestep_scaling", "0.0")],
)
def test_a_schedule_that_is_not_finite_is_refused(model, tmp_path, key, value):
    other = tmp_path / "other"
    shutil.copytree(model, other)
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(re.sub(rf'("{key}"): [^,]+', rf"\1: {value}", config.read_text()))
    assert f'"{key}": {value}' in config.read_text()
    with pytest.raises(UserError, match="scheduler_config"):
        tiny.load_policy("consistency", str(other), 4, 3.0)


def test_images_have_the_resolution_that_is_asked_for(model):
    settings = {"policy": "consistency", "chain": "lcm", "model": model, "guidance_scale": 3.0}
    for resolution, pixels in ((None, 8), (8, 8), (12, 12), (20, 20)):
        asked = ModelSettings(**settings, inference_steps=2, resolution=resolution)
        policy = load_policy(asked)
        assert policy.denoiser.resolution == pixels
        noise = policy.noise(0, ["a"], "test")
        with torch.no_grad():
            latents = policy.rollout(policy.encode_prompts(PROMPTS[:1]), noise).latents
            assert policy.decode(latents).shape == (1, 3, pixels, pixels)
    asked = ModelSettings(**settings, inference_steps=2, resolution=13)
    with pytest.raises(UserError, match="resolution must be a multiple of 2 for this model, not 1"):
        load_policy(asked)


@pytest.mark.parametrize("base", ["consistency", "flow"])
def test_words_that_the_embedded_world_lacks_are_named_once(capsys, monkeypatch, base):
    def said(policy, *prompts):
        policy.encode_prompts(prompts)
        return capsys.readouterr().err

    warn.cache_clear()  # which says a thing once per process
    chain = "lcm" if base == "consistency" else "flow"
    settings = ModelSettings(
        model=f"resources/shapes/{base}", inference_steps=2, guidance_scale=1.0, chain=chain
    )
    policy = load_policy(settings)
    assert said(policy, *sample_captions(200, seed=0), "a Red CIRCLE", "") == ""
    warning = said(policy, "a dog above a red ring", "a ring, a zebra and a dog")
    assert warning.count("warning") == 1 and "without 'dog', 'zebra', 'and':" in warning
    assert said(policy, "a dog", "a zebra and a red ring") == ""
    many = said(policy, " ".join(f"word{n}" for n in range(25)))
    assert "'word19' and 5 more" in many and "word20" not in many
    # A published vocabulary has pieces of words.
    monkeypatch.setattr("rocm_core.policies.denoisers.words._OWN_WORDS", 100)
    assert said(load_policy(settings), "a quokka") == ""
