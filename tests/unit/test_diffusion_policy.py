"""The diffusion policy against diffusers' scheduler and pipeline, and its gradient."""

import json
from pathlib import Path

import pytest
import tiny
import torch

from rocm_core.algorithms import Batch, load_algorithm
from rocm_core.errors import UserError
from rocm_core.policies import HIDDEN, MODES, add_adapter, lora_parameters, save_lora
from rocm_core.policies.chains import Schedule, ddim

PROMPTS = ["a red cat", "two dogs", "x"]
KIND = "diffusion"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return str(tiny.write_pipeline(folder, policy="diffusion"))


def load(model, steps=4, guidance_scale=3.0, dtype=torch.float32, adapter=True):
    policy = tiny.load_policy("diffusion", model, steps, guidance_scale, dtype=dtype)
    if adapter:
        add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
        tiny.perturb(policy.network)
    return policy


def rollout(policy, prompts=PROMPTS):
    noise = policy.noise(0, list("abc")[: len(prompts)], "test")
    with torch.no_grad():
        return policy.rollout(policy.encode_prompts(prompts), noise), noise


def guided(policy, scale, state, timestep, embeddings):
    """Classifier-free guidance as its paper writes it, each pass alone."""

    def unet(condition):
        return policy.network(state, timestep, encoder_hidden_states=condition).sample

    hidden = embeddings[HIDDEN]
    empty = policy.encode_prompts([""])[HIDDEN].expand_as(hidden)
    return (1 - scale) * unet(empty) + scale * unet(hidden)


@pytest.mark.parametrize(
    ("steps", "guidance_scale", "scheduler", "draws"),
    [
        (1, 3.0, {}, 1),
        (4, 7.5, {}, 4),
        (20, 1.0, {}, 20),
        (4, 3.0, {"prediction_type": "v_prediction"}, 4),
        (4, 3.0, {"clip_sample": True, "clip_sample_range": 0.8}, 4),
        (4, 3.0, {"set_alpha_to_one": True}, 3),
        (4, 3.0, {"steps_offset": 0}, 3),  # ends at timestep 0
        (5, 3.0, {"timestep_spacing": "trailing", "set_alpha_to_one": True}, 4),
        (5, 3.0, {"timestep_spacing": "linspace", "beta_schedule": "linear"}, 4),
    ],
)
def test_every_step_is_diffusers_own(tmp_path, steps, guidance_scale, scheduler, draws):
    from diffusers import DDIMScheduler

    folder = tiny.write_pipeline(tmp_path / "model", policy="diffusion", **scheduler)
    policy = load(str(folder), steps, guidance_scale, adapter=False)
    trajectory, noise = rollout(policy)
    theirs = DDIMScheduler.from_pretrained(folder / "scheduler")
    theirs.set_timesteps(steps)
    embeddings, state = policy.encode_prompts(PROMPTS), noise[:, 0]
    assert len(policy.stds) == len(trajectory.transitions) == draws
    for index, timestep in enumerate(theirs.timesteps):
        with torch.no_grad():
            output = guided(policy, guidance_scale, state, timestep, embeddings)
        if index < draws:
            step = trajectory.transitions[index]
            assert step.timestep == timestep
            previous = timestep - 1000 // steps
            assert step.std.square() == pytest.approx(
                float(theirs._get_variance(timestep, previous)), rel=1e-3
            )
            assert (step.state - state).abs().max() <= 1e-5 * state.abs().max()
        drawn = noise[:, index + 1] if index < draws else torch.zeros_like(state)
        state = theirs.step(output, timestep, state, eta=1.0, variance_noise=drawn).prev_sample
    assert (trajectory.latents - state).abs().max() <= 1e-5 * state.abs().max()


@pytest.mark.parametrize(("steps", "guidance_scale"), [(1, 3.0), (2, 3.0), (4, 7.5), (8, 1.0)])
def test_images_equal_the_pipelines(model, monkeypatch, steps, guidance_scale):
    policy = load(model, steps, guidance_scale, adapter=False)
    trajectory, noise = rollout(policy)
    theirs = tiny.pipeline_images(policy, KIND, model, PROMPTS, noise, monkeypatch)
    ours = policy.decode(trajectory.latents)
    assert ours.shape == theirs.shape == (3, 3, 8, 8)
    assert 0.05 < theirs.std() and (ours - theirs).abs().max() <= 1e-5


def test_an_exported_lora_gives_the_same_images_in_a_plain_pipeline(model, tmp_path, monkeypatch):
    policy = load(model)
    trajectory, noise = rollout(policy)
    path = tmp_path / "lora.safetensors"
    save_lora(path, policy.network)
    asked = policy, KIND, model, PROMPTS, noise, monkeypatch
    theirs = tiny.pipeline_images(*asked, lora=path)
    assert (policy.decode(trajectory.latents) - theirs).abs().max() <= 1e-5
    base = tiny.pipeline_images(*asked)
    assert (theirs - base).abs().max() > 0.05


def test_passes_are_counted_per_image_and_guidance_1_takes_one(model):
    for guidance_scale, passes in ((3.0, 2), (1.0, 1)):
        policy = load(model, guidance_scale=guidance_scale)
        sizes = []
        policy.network.register_forward_hook(
            lambda _, inputs, __, s=sizes: s.append(len(inputs[0]))
        )
        embeddings, noise = policy.encode_prompts(PROMPTS), policy.noise(0, list("abc"), "test")
        trajectory = policy.rollout(embeddings, noise, reference="stop")
        policy.reevaluate(1, trajectory.transitions[1], embeddings)
        policy.reevaluate(1, trajectory.transitions[1], embeddings, reference=True)
        assert policy.nfe == sum(sizes) == passes * 3 * (4 + 4 + 1 + 2)


def test_an_image_does_not_depend_on_its_batch(model):
    # In double precision: convolutions choose how to add up by the size of the batch, and the
    # untrained network magnifies single precision's rounding as much as the processor likes.
    policy = load(model, dtype=torch.float64)
    policy.network.double()  # the adapter too
    together, noise = rollout(policy)
    embeddings = policy.encode_prompts(PROMPTS)
    with torch.no_grad():
        for i in range(3):
            own = {name: part[i : i + 1] for name, part in embeddings.items()}
            alone = policy.rollout(own, noise[i : i + 1])
            assert torch.allclose(alone.latents, together.latents[i : i + 1], atol=1e-10)


def test_a_reevaluated_transition_is_the_one_that_was_drawn(model):
    policy = load(model)
    trajectory, _ = rollout(policy)
    for index, past in enumerate(trajectory.transitions):
        now = policy.reevaluate(index, past, policy.encode_prompts(PROMPTS), reference=True)
        assert torch.equal(now.mean, past.mean) and now.mean.requires_grad
        assert now.next_state is past.next_state
        with policy.reference(), torch.no_grad():
            base = policy.mean(index, past.state, policy.encode_prompts(PROMPTS))
        assert torch.equal(now.reference_mean, base) and not now.reference_mean.requires_grad
        assert now.squared_distance().min() > 0


def test_chains_run_in_double_precision_and_not_below_single(model):
    for dtype, expected in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        policy = load(model, dtype=dtype)
        trajectory, _ = rollout(policy)
        assert policy.denoiser.without_hidden_states.dtype == dtype
        assert trajectory.latents.dtype == trajectory.transitions[0].mean.dtype == expected


def test_a_rollout_reads_nothing_back_from_the_device(model, monkeypatch):
    policy = load(model)
    noise, embeddings = policy.noise(0, ["a"], "test"), policy.encode_prompts(PROMPTS[:1])

    def refuse(*_):
        raise AssertionError("this would wait for the device")

    for name in ("item", "tolist", "numpy", "__float__", "__int__", "__bool__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    policy.activation_checkpointing = "step"
    trajectory = policy.rollout(embeddings, noise, "stop")
    policy.decode(trajectory.latents).sum().backward()


@pytest.mark.parametrize("divergence", ["none", "kl"])
@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_through_the_whole_trajectory_is_exact(model, divergence, mode):
    policy = tiny.load_policy("diffusion", model, 3, 4.0, dtype=torch.float64)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    parameters = list(lora_parameters(policy.network).values())
    for parameter in parameters:
        parameter.data = parameter.data.double()
    tiny.perturb(policy.network, 0.1)
    settings = tiny.settings(policy="diffusion", divergence=divergence, beta=0.02)
    algorithm = load_algorithm(settings)
    policy.activation_checkpointing = mode
    noise = policy.noise(0, ["a", "b"], "test")
    batch = Batch(PROMPTS[:2], policy.encode_prompts(PROMPTS[:2]), noise)

    def objective():
        return algorithm.loss(policy, tiny.Brightness(), batch)[0]

    gradients = torch.autograd.grad(objective(), parameters)
    width = 1e-5
    pairs = list(zip(parameters, gradients, strict=True))
    for parameter, gradient in pairs[:: len(pairs) // 6]:
        place = parameter.numel() // 2
        flat, values = parameter.data.view(-1), []
        start = flat[place].item()
        for shifted in (start + width, start - width):
            flat[place] = shifted
            with torch.no_grad():
                values.append(float(objective()))
        flat[place] = start
        expected = (values[0] - values[1]) / (2 * width)
        assert abs(expected) > 1e-7
        assert gradient.flatten()[place].item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_a_schedule_of_another_scheduler_does_not_clip_latents(tmp_path):
    """DDIM's own defaults are for pixels; Stable Diffusion's models often come with another."""
    folder = tiny.write_pipeline(tmp_path / "model", policy="diffusion")
    config = folder / "scheduler" / "scheduler_config.json"
    expected = load(str(folder), adapter=False)
    kept = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    euler = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
    config.write_text(json.dumps({**kept, **euler}))
    policy = load(str(folder), adapter=False)
    (ours, _), (theirs, _) = rollout(policy), rollout(expected)
    assert policy.timesteps.tolist() == expected.timesteps.tolist() == [751, 501, 251, 1]
    assert ours.latents.abs().max() > 1 and torch.allclose(ours.latents, theirs.latents)


def test_folders_that_are_not_a_diffusion_model_are_refused(model, tmp_path):
    def refuse(said, steps=4, policy="diffusion", **changes):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        path = str(tiny.write_pipeline(folder, policy=policy, **changes))
        with pytest.raises(UserError, match=said) as error:
            tiny.load_policy("diffusion", path, steps, 3.0)
        assert str(error.value).splitlines() == [str(error.value)]

    refuse("is a consistency model: name its policy consistency", policy="consistency")
    refuse("must predict epsilon or v_prediction, without thresholding", thresholding=True)
    refuse("must predict epsilon or v_prediction", prediction_type="sample")
    refuse("inference_steps: 1000 steps do not fit", steps=1000)  # one offset too many
    config = json.loads((Path(model) / "scheduler/scheduler_config.json").read_text())
    with pytest.raises(UserError, match="1001 steps do not fit into the 1000 timesteps of here"):
        ddim.make(Schedule("here", config), 1001)
    refuse(
        "without signal its network must predict v, not epsilon",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    with pytest.raises(UserError, match="is not a consistency model"):
        tiny.load_policy("consistency", model, 4, 3.0)
