"""Every denoiser and chain against diffusers' own pipeline, on tiny models in published layouts."""

import itertools
import json
from pathlib import Path

import few_step
import pytest
import tiny
import torch
from few_step import EACH, TWINS, UNPUBLISHED

from rocm_core.plugins import facts, names
from rocm_core.policies import add_adapter, lora_parameters, save_lora

PROMPTS = ["a red cat", "two dogs"]
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
STEPS = (1, 2, 4, 8)
# One of each denoiser in the plain tier, the others with the faults.
ALL = [pytest.param(n, marks=[] if n in EACH else pytest.mark.faults) for n in TWINS]
DRAWING = [param for param in ALL if TWINS[param.values[0]].chain != "euler"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a twin, by its name, written when it is first asked for."""
    root, known = tmp_path_factory.mktemp("models"), {}

    def folder(name: str) -> Path:
        if name not in known:
            known[name] = few_step.write(root / name.replace(" ", "-"), name)
        return known[name]

    return folder


def adapted(name, folder, steps=4, dtype=torch.float32):
    """With an adapter that has moved, of alpha three times its rank."""
    policy = few_step.load(name, folder, steps, dtype)
    add_adapter(policy.network, 2, 6.0, TARGETS, seed=0)
    tiny.perturb(policy.network, 0.1)
    return policy


def noise_for(policy):
    """Of as many parts as the policy has steps: zeros where a step draws nothing."""
    drawn = policy.noise(0, ["a", "b"], "test")
    missing = policy.steps - drawn.shape[1]
    return torch.cat([drawn, torch.zeros(2, missing, *policy.denoiser.latent_shape)], 1)


@torch.no_grad()
def images(policy, noise):
    return policy.decode(policy.rollout(policy.encode_prompts(PROMPTS), noise).latents)


def test_twins_are_of_every_denoiser_and_chain_and_methods_of_every_algorithm():
    pipelines = {TWINS[name].pipeline for name in EACH}
    assert all(pipelines & {*facts("denoisers", n)["PIPELINES"]} for n in names("denoisers"))
    chains = {twin.chain for twin in TWINS.values()}
    assert chains | {"ddim"} == {*names("chains")}  # of many steps: test_diffusion_policy.py
    assert {settings["algorithm"] for settings in METHODS.values()} == {*names("algorithms")}


def cases():
    """Few steps of each published twin in the plain tier, the others with the faults."""
    for name, steps in itertools.product(TWINS, STEPS):
        if "timesteps" in TWINS[name].options and steps != 4:
            continue
        plain = name not in UNPUBLISHED if steps == 4 else name in EACH and steps == 1
        yield pytest.param(name, steps, marks=[] if plain else pytest.mark.faults)


@pytest.mark.parametrize(("name", "steps"), cases())
def test_images_equal_the_pipelines(written, monkeypatch, name, steps):
    policy = few_step.load(name, written(name), steps)
    assert policy.steps == steps
    noise = noise_for(policy)
    ours = images(policy, noise)
    made = few_step.pipeline(name, written(name))
    theirs = few_step.their_images(name, made, PROMPTS, noise, monkeypatch)
    assert ours.shape == theirs.shape == (2, 3, TWINS[name].pixels, TWINS[name].pixels)
    assert theirs.std() > 0.03 and (ours - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ALL)
def test_an_exported_lora_gives_the_same_images_in_the_pipeline(
    written, monkeypatch, tmp_path, name
):
    policy = adapted(name, written(name))
    noise = noise_for(policy)
    path = tmp_path / "lora.safetensors"
    save_lora(path, policy.network, name=policy.denoiser.lora_name)
    ours = images(policy, noise)
    made = few_step.pipeline(name, written(name))
    base = few_step.their_images(name, made, PROMPTS, noise, monkeypatch)
    if name.startswith("PixArt"):
        load_with_peft(made.transformer, path)
    else:
        made.load_lora_weights(str(path))
    theirs = few_step.their_images(name, made, PROMPTS, noise, monkeypatch)
    assert (ours - theirs).abs().max() <= 1e-5 and (theirs - base).abs().max() > 0.1


def load_with_peft(network, path):
    """As docs/reproducing.md shows it."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["lora_adapter_metadata"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config = {key.removeprefix("base_model.model."): value for key, value in said.items()}
    inject_adapter_in_model(LoraConfig(**config), network)
    assert not set_peft_model_state_dict(network, tensors).unexpected_keys


def value(policy, embeddings, noise, beta=0.1):
    """R - β·D, with a smooth reward of the latents."""
    trajectory = policy.rollout(embeddings, noise, "full")
    return trajectory.latents.square().mean() - beta * trajectory.squared_distances("mean").sum()


def stay_double(monkeypatch):
    """Some of diffusers' norms and attentions compute in float32, whatever they are given."""
    to, single = torch.Tensor.to, torch.Tensor.float

    def kept(tensor, *args, **kwargs):
        if tensor.dtype == torch.float64 and args[:1] == (torch.float32,):
            return tensor
        return to(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", kept)
    monkeypatch.setattr(
        torch.Tensor, "float", lambda t: t if t.dtype == torch.float64 else single(t)
    )


@pytest.mark.parametrize("name", DRAWING)
def test_the_gradient_equals_central_differences(written, monkeypatch, name):
    policy = adapted(name, written(name), 2, torch.float64)
    policy.network.double()
    stay_double(monkeypatch)
    parameters = [*lora_parameters(policy.network).values()]
    embeddings, noise = policy.encode_prompts(PROMPTS), policy.noise(0, ["a", "b"], "test")
    gradients = torch.autograd.grad(value(policy, embeddings, noise), parameters)
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    ahead, behind = 0.0, 0.0
    with torch.no_grad():
        for sign in (1, -2, 1):
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += sign * 1e-5 * direction
            if sign == 1 and not ahead:
                ahead = value(policy, embeddings, noise)
            elif sign == -2:
                behind = value(policy, embeddings, noise)
    assert abs(slope) > 1e-4
    torch.testing.assert_close((ahead - behind) / 2e-5, slope, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", DRAWING)
def test_checkpointing_changes_no_gradient(written, name):
    policy = adapted(name, written(name), 2)
    parameters = [*lora_parameters(policy.network).values()]
    embeddings, noise = policy.encode_prompts(PROMPTS), policy.noise(0, ["a", "b"], "test")
    found = []
    for mode in ("none", "step", "block"):
        policy.activation_checkpointing = mode
        trajectory = policy.rollout(embeddings, noise, "stop")
        loss = policy.decode(trajectory.latents).square().mean()
        loss = loss + trajectory.squared_distances("mean").sum()
        found.append(torch.autograd.grad(loss, parameters, allow_unused=True))
    for other in found[1:]:
        for mine, plain in zip(other, found[0], strict=True):
            assert (mine is None) == (plain is None)
            assert plain is None or torch.equal(mine, plain)
    assert sum(float(g.abs().sum()) for g in found[0] if g is not None) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", DRAWING)
def test_an_adapter_starts_at_the_reference_with_a_finite_gradient(written, name, dtype):
    policy = few_step.load(name, written(name), 2, dtype)
    add_adapter(policy.network, 2, 6.0, TARGETS, seed=0)
    embeddings, noise = policy.encode_prompts(PROMPTS), policy.noise(0, ["a", "b"], "test")
    trajectory = policy.rollout(embeddings, noise, "full")
    assert not trajectory.squared_distances().any()
    (policy.decode(trajectory.latents).mean() + trajectory.squared_distances().sum()).backward()
    gradients = [p.grad for p in lora_parameters(policy.network).values() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients) and any(g.any() for g in gradients)
    if policy.compensates:
        wide = policy.widened()
        assert (wide.network.dtype, policy.network.dtype) == (torch.float32, dtype)
        text = {name: part.float() for name, part in embeddings.items()}
        exact = wide.reevaluate(0, trajectory.transitions[0], text, reference=True)
        assert not exact.squared_distance().any()
    drawn = trajectory.transitions[0]
    normal = torch.distributions.Normal(drawn.mean, drawn.std)
    expected = normal.log_prob(drawn.next_state).flatten(1).sum(1)
    torch.testing.assert_close(drawn.log_prob(), expected, rtol=1e-4, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", DRAWING)
def test_distances_in_half_precision_are_those_of_single(written, name):
    """Policy and reference in one pass, as `compensation` says, also for transformers."""
    policy = adapted(name, written(name), 2, torch.bfloat16)
    embeddings, noise = policy.encode_prompts(PROMPTS), policy.noise(0, ["a", "b"], "test")
    step = policy.rollout(embeddings, noise, "full").transitions[0]
    text = {name: part.float() for name, part in embeddings.items()}
    exact = policy.widened().reevaluate(0, step, text, reference=True)
    assert (exact.squared_distance() > 0).all()
    torch.testing.assert_close(step.squared_distance(), exact.squared_distance(), rtol=0.2, atol=0)


DETAILS = {
    "vae/config.json": {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [0.5, 1.5, 2.0, 1.0]},
    "model_index.json": {"force_zeros_for_empty_prompt": False},
}


@pytest.mark.parametrize("file", DETAILS)
def test_what_an_sdxl_folder_says_is_what_its_pipeline_does(tmp_path, monkeypatch, file):
    name = "SDXL with guidance"
    folder = few_step.write(tmp_path / "model", name)
    usual = few_step.load(name, folder)
    said = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(said | DETAILS[file]))
    policy, made = few_step.load(name, folder), few_step.pipeline(name, folder)
    if file == "model_index.json":  # which is read to make a pipeline, not by its parts
        made.register_to_config(**DETAILS[file])
    noise = noise_for(policy)
    ours = images(policy, noise)
    theirs = few_step.their_images(name, made, PROMPTS, noise, monkeypatch)
    assert (ours - theirs).abs().max() <= 1e-5
    assert (ours - images(usual, noise)).abs().max() > 0.01


@torch.no_grad()
def test_sdxls_autoencoder_does_not_overflow_in_half_precision(written):
    denoiser = few_step.load("LCM-SDXL", written("LCM-SDXL"), dtype=torch.float16).denoiser
    assert denoiser.network.dtype == torch.float16
    beyond = torch.full((1, *denoiser.latent_shape), 2 * torch.finfo(torch.float16).max)
    assert denoiser.decode(beyond).isfinite().all()


@pytest.mark.parametrize(("width", "tokens"), [(16, 0), (24, 256)])
def test_stable_diffusion_3_does_without_t5_where_its_index_says_so(
    tmp_path, monkeypatch, width, tokens
):
    """With zeros for its tokens, unless there is no room for T5's states beside CLIP's."""
    import shutil
    from dataclasses import replace

    name, asked = "SD3.5-turbo", {"max_sequence_length": tokens}
    twin = replace(TWINS[name], network={"joint_attention_dim": width}, asked=asked)
    monkeypatch.setitem(TWINS, name, twin)
    folder = few_step.write(tmp_path / "model", name)
    for part in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / part)
    index = json.loads((folder / "model_index.json").read_text())
    absent = {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index | absent))
    policy = few_step.load(name, folder, 2)
    noise = policy.noise(0, ["a", "b"], "test")
    made = few_step.pipeline(name, folder)
    assert made.text_encoder_3 is None
    theirs = few_step.their_images(name, made, PROMPTS, noise, monkeypatch)
    assert (images(policy, noise) - theirs).abs().max() <= 1e-5


def test_a_tokenizer_that_needs_other_packages_names_them(tmp_path, monkeypatch):
    from rocm_core.errors import UserError

    folder = few_step.write(tmp_path / "model", "PixArt-LCM")
    (folder / "tokenizer/tokenizer.json").rename(folder / "tokenizer/spiece.model")
    monkeypatch.setattr("transformers.utils.is_sentencepiece_available", lambda: False)
    with pytest.raises(UserError, match="tokenizer is a SentencePiece model, .*rocm-core.t5"):
        few_step.load("PixArt-LCM", folder)


METHODS = {
    "direct": {"algorithm": "direct", "divergence": "js", "beta": 0.1},
    "ppo": {"algorithm": "ppo"},
    "dpok": {"algorithm": "dpok", "divergence": "kl", "beta": 0.1},
    "d3po": {"algorithm": "d3po", "divergence": "kl", "beta": 0.1, "images_per_prompt": 2},
    "grpo": {"algorithm": "grpo", "images_per_prompt": 2},
    "hybrid": {"algorithm": "hybrid", "images_per_prompt": 2},
    "rebel": {"algorithm": "rebel", "images_per_prompt": 2},
}


def pairings():
    """Each denoiser and each algorithm once in the plain tier, all pairs with the faults, and of
    the other twins one algorithm with gradients through the chain, and one without."""
    most = max(len(EACH), len(METHODS))
    plain = {(EACH[i % len(EACH)], [*METHODS][i % len(METHODS)]) for i in range(most)}
    for pair in itertools.product(EACH, METHODS):
        yield pytest.param(*pair, marks=[] if pair in plain else pytest.mark.faults)
    others = (param.values[0] for param in DRAWING if param.values[0] not in EACH)
    for pair in itertools.product(others, ("direct", "ppo")):
        yield pytest.param(*pair, marks=pytest.mark.faults)


@pytest.mark.parametrize(("name", "method"), pairings())
def test_every_algorithm_trains_every_denoiser_and_resumes_exactly(
    written, monkeypatch, name, method
):
    from accelerate import Accelerator

    from rocm_core.training import Trainer, trainer

    monkeypatch.setattr(trainer, "load_reward", lambda *_: tiny.Brightness())
    model = few_step.settings(name, written(name), 2)
    settings = tiny.settings(**METHODS[method] | model, lora_targets=TARGETS)

    def start():
        return Trainer(settings, tiny.PROMPTS, "code", Accelerator(cpu=True))

    whole, stopped, resumed = start(), start(), start()
    before = {key: value.detach().clone() for key, value in whole.lora.items()}
    whole.iterate(1)
    row = whole.iterate(2)
    stopped.iterate(1)
    resumed.load_state_dict(stopped.state_dict())
    taken = {"training_seconds": 0, "peak_memory_gib": 0}
    assert resumed.iterate(2) | taken == row | taken
    assert all(torch.equal(value, resumed.lora[key]) for key, value in whole.lora.items())
    assert any(not torch.equal(value, before[key]) for key, value in whole.lora.items())


@pytest.mark.parametrize("name", ["PixArt-LCM", "SD-Turbo"])
def test_a_training_starts_from_the_lora_that_another_left(written, monkeypatch, tmp_path, name):
    """PixArt's has names of its own, as its pipeline loads none."""
    from accelerate import Accelerator

    from rocm_core.training import Trainer, trainer

    monkeypatch.setattr(trainer, "load_reward", lambda *_: tiny.Brightness())
    settings = tiny.settings(**few_step.settings(name, written(name), 2), lora_targets=TARGETS)
    first = Trainer(settings, tiny.PROMPTS, "code", Accelerator(cpu=True))
    first.iterate(1)
    first.export(tmp_path / "lora.safetensors")
    settings = settings.model_copy(update={"init_lora": str(tmp_path / "lora.safetensors")})
    second = Trainer(settings, tiny.PROMPTS, "code", Accelerator(cpu=True))
    assert all(torch.equal(value, second.lora[key]) for key, value in first.lora.items())


OF_LAST_STEP = {
    "redrawn": {"algorithm": "direct", "truncate": "last", "low_variance": 2},
    "compared": {"algorithm": "direct", "divergence": "kl", "beta": 0.1, "truncate": "last"},
    "released": {"algorithm": "ppo", "horizon": "released", "divergence": "kl", "beta": 0.1},
}


def last_steps():
    """Chains that end without noise; one of each kind in the plain tier."""
    plain = {("SD3.5-turbo", "redrawn"), ("SANA-Sprint", "released"), ("SD-Turbo", "compared")}
    for pair in itertools.product(
        ("SD-Turbo", "SD with TCD", "SANA-Sprint", "SD3.5-turbo"), OF_LAST_STEP
    ):
        yield pytest.param(*pair, marks=[] if pair in plain else pytest.mark.faults)


@pytest.mark.parametrize(("name", "kind"), last_steps())
def test_what_is_about_the_last_step_works_on_every_chain_that_ends_without_noise(
    written, monkeypatch, name, kind
):
    from accelerate import Accelerator

    from rocm_core.training import Trainer, trainer

    monkeypatch.setattr(trainer, "load_reward", lambda *_: tiny.Brightness())
    model = few_step.settings(name, written(name), 2)
    asked = OF_LAST_STEP[kind] | {"last_step_divergence": kind != "redrawn"}
    training = Trainer(
        tiny.settings(**asked | model, lora_targets=TARGETS),
        tiny.PROMPTS,
        "code",
        Accelerator(cpu=True),
    )
    training.iterate(1)
    row = training.iterate(2)
    assert row["gradient_norm"] > 0
    if kind != "redrawn":
        assert row["squared_distance_1"] > 0


WITHOUT_NOISE = {"SD3 without noise": {}, "SD with TCD": {"gamma": 0.0}}


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=[] if m in ("direct", "ppo") else pytest.mark.faults) for m in METHODS],
)
@pytest.mark.parametrize("name", WITHOUT_NOISE)
def test_a_chain_without_noise_is_refused_where_a_density_is_needed(written, name, method):
    from accelerate import Accelerator

    from rocm_core.errors import UserError
    from rocm_core.training import Trainer

    model = few_step.settings(name, written(name), 4) | WITHOUT_NOISE[name]
    settings = tiny.settings(**METHODS[method] | model, lora_targets=TARGETS)
    divergence = METHODS[method].get("divergence")
    said = f"the divergence {divergence}" if divergence else method
    with pytest.raises(UserError, match=f"{said} is over the steps that draw noise, and of"):
        Trainer(settings, tiny.PROMPTS, "code", Accelerator(cpu=True))


def test_a_chain_without_noise_trains_without_a_divergence(written, monkeypatch):
    from accelerate import Accelerator

    from rocm_core.training import Trainer, trainer

    monkeypatch.setattr(trainer, "load_reward", lambda *_: tiny.Brightness())
    model = few_step.settings("SD3 without noise", written("SD3 without noise"), 4)
    plain = Trainer(
        tiny.settings(**model, lora_targets=TARGETS), tiny.PROMPTS, "code", Accelerator(cpu=True)
    )
    assert plain.iterate(1)["gradient_norm"] > 0


# Into U-Nets of Stable Diffusion: test_lcm_lora.py.
MERGED = ("SDXL with guidance", "PixArt-LCM", "SANA-Sprint", "SD3.5-turbo", "FLUX.1-schnell")


def merged_into(name, folder, lora):
    from rocm_core.configuration import ModelSettings
    from rocm_core.policies import load_policy

    return load_policy(ModelSettings(**few_step.settings(name, folder, model_lora=str(lora))))


@pytest.mark.parametrize("name", MERGED)
def test_a_lora_is_merged_whole_or_not_at_all(written, tmp_path, name):
    from safetensors.torch import load_file, save_file

    from rocm_core.errors import UserError

    policy, file = adapted(name, written(name)), tmp_path / "pytorch_lora_weights.safetensors"
    save_lora(file, policy.network, name=policy.denoiser.lora_name)
    noise, base = policy.noise(0, ["a", "b"], "test"), few_step.load(name, written(name))
    merged = merged_into(name, written(name), tmp_path)
    ours, with_adapter = images(merged, noise), images(policy, noise)
    assert (ours - with_adapter).abs().max() <= 1e-4
    assert (ours - images(base, noise)).abs().max() > 1e-3
    assert not lora_parameters(merged.network)
    assert merged.network.state_dict().keys() == base.network.state_dict().keys()
    add_adapter(merged.network, 2, 6.0, TARGETS, seed=0)  # as a training does it

    tensors = load_file(file)
    key = next(key for key in tensors if key.endswith("lora_A.weight"))
    half = {other: value for other, value in tensors.items() if other != key}
    strange = tensors | {f"text_encoder.{key}": tensors[key].clone()}
    narrow = tensors | {key: tensors[key][:, :-1].contiguous()}
    for damaged in (half, strange, narrow):
        save_file(damaged, file)
        with pytest.raises(UserError, match="is not a LoRA of this (U-Net|transformer)"):
            merged_into(name, written(name), tmp_path)


def test_a_lora_for_flux_in_the_names_of_kohyas_trainer_is_merged_alike(written, tmp_path):
    from safetensors.torch import load_file, save_file

    name, rank, alpha = "FLUX.1-schnell", 2, 6.0
    policy = few_step.load(name, written(name))
    targets = ("attn.to_out.0", "attn.to_add_out")
    add_adapter(policy.network, rank, alpha, targets, seed=0)
    tiny.perturb(policy.network, 0.1)
    for folder in ("diffusers", "kohya"):
        (tmp_path / folder).mkdir()
    save_lora(tmp_path / "diffusers/a.safetensors", policy.network, name="transformer")
    names = {"attn.to_out.0": "img_attn_proj", "attn.to_add_out": "txt_attn_proj"}
    parts = {"lora_A": "lora_down", "lora_B": "lora_up"}
    kohya = {}
    for key, value in load_file(tmp_path / "diffusers/a.safetensors").items():
        layer, part, _ = key.removeprefix("transformer.transformer_blocks.0.").rsplit(".", 2)
        own = f"lora_unet_double_blocks_0_{names[layer]}"
        kohya |= {f"{own}.{parts[part]}.weight": value, f"{own}.alpha": torch.tensor(alpha)}
    save_file(kohya, tmp_path / "kohya/a.safetensors")
    ours, theirs = (
        merged_into(name, written(name), tmp_path / folder).network.state_dict()
        for folder in ("kohya", "diffusers")
    )
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-6)


def test_a_configuration_needs_no_more_of_an_sdxl_consistency_model_than_its_folder(written):
    """Its images have 8 pixels, which the scorers of the embedded world resize."""
    import yaml
    from accelerate import Accelerator
    from checkout import ROOT

    from rocm_core.grid import make_grid, parse_config
    from rocm_core.training import Trainer

    config = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
    model = {"model": str(written("LCM-SDXL")), "steps": 2, "guidance_scale": 7.5}
    short = {"iterations": 1, "snapshot_every": 0}
    config |= {"policies": {"consistency": model}, "resolution": None}
    config["methods"] = {"rocm-kl": short | {"beta": 0.1}, "rlcm": short}
    for cell in make_grid(parse_config(config)):
        training = Trainer(cell.settings, tiny.PROMPTS, "code", Accelerator(cpu=True))
        policy = training.policy
        assert type(policy.denoiser).__name__ == "StableDiffusionXL"
        assert policy.denoiser.resolution == 8 and policy.chain.last_step is not None
        assert training.iterate(1)["gradient_norm"] > 0


def test_resolutions_are_multiples_of_what_a_network_reads_at_once(written):
    from rocm_core.errors import UserError
    from rocm_core.policies import own_resolution

    policy = few_step.load("FLUX.1-schnell", written("FLUX.1-schnell"))
    with pytest.raises(UserError, match="resolution must be a multiple of 4 for this model, not 6"):
        policy.denoiser.resolution = 6
    assert [own_resolution(written(name)) for name in EACH] == [8, 8, 32, 8, None, 8]
