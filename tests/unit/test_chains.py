"""Chains and denoisers as plug-ins: found by name, from a package of the user's own too."""

import json

import pytest
import tiny
import torch

from rocm_core.errors import UserError
from rocm_core.grid import job_code
from rocm_core.grid.models import default_chain, denoiser_modules
from rocm_core.plugins import names
from rocm_core.policies import load_policy
from rocm_core.policies.chains import Chain, Step, prediction
from rocm_core.provenance import forget_code

HALVING = '''"""Halves the state K times, whatever the network says, and draws but for the last."""

from rocm_core.policies.chains import Chain, Schedule, Step


def make(schedule: Schedule, steps: int) -> Chain:
    stds = [0.25] * (steps - 1) + [0.0]
    return Chain(tuple(Step(i, (0.0, 1.0), 0.5, 0.0, 0.0, std) for i, std in enumerate(stds)))
'''


@pytest.fixture
def chain(tmp_path, monkeypatch):
    (tmp_path / "her_chains").mkdir()
    (tmp_path / "her_chains/halving.py").write_text(HALVING)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "her_chains/halving.py"


@torch.no_grad()
def test_a_chain_of_the_users_own_package_is_followed(model, chain):
    settings = tiny.generation_settings(model=model, chain="her_chains.halving")
    policy = load_policy(settings)
    noise = policy.noise(0, ["a", "b"], "test")
    trajectory = policy.rollout(policy.encode_prompts(["a", "b"]), noise)
    state = noise[:, 0]
    for drawn in noise[:, 1:].unbind(1):
        state = 0.5 * state + 0.25 * drawn
    assert noise.shape[1] == 4 and torch.equal(trajectory.latents, 0.5 * state)
    assert [step.timestep for step in trajectory.transitions] == [0, 1, 2]


def test_images_are_made_again_when_their_chain_is_edited(model, chain):
    ours, hers = (
        tiny.generation_settings(model=model, chain=name) for name in ("lcm", "her_chains.halving")
    )
    before = job_code("generate", ours), job_code("generate", hers)
    chain.write_text(HALVING.replace("0.25", "0.75"))
    forget_code()
    assert job_code("generate", ours) == before[0]
    assert job_code("generate", hers) != before[1]


def test_a_model_is_followed_by_its_own_denoiser_before_it_is_fetched_and_after(model):
    room = "rocm_core.policies.denoisers"
    assert denoiser_modules(model) == [f"{room}.stable_diffusion"]
    assert denoiser_modules("weights/FLUX.1-schnell") == [f"{room}.flux"]
    assert default_chain("weights/Sana_Sprint_1.6B_1024px") == "scm"
    assert len(denoiser_modules("models/absent")) == len(names("denoisers")) > 5


def test_a_deterministic_step_must_not_come_before_one_that_draws():
    steps = [Step(i, (0.0, 1.0), 0.0, 1.0, 0.0, std) for i, std in enumerate((0.5, 0.0, 0.5))]
    with pytest.raises(UserError, match=r"must come last, .* are \[0.5, 0.0, 0.5\]"):
        Chain(tuple(steps))
    assert Chain(tuple(steps[:2])).stds == [0.5]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_what_is_predicted_gives_back_image_and_noise(kind):
    signal, std, image, noise = 0.6, 0.8, 1.7, -0.3
    state = signal * image + std * noise
    output = {"epsilon": noise, "v_prediction": signal * noise - std * image, "sample": image}[kind]
    of_image, of_noise = prediction(kind, signal, std)
    assert of_image[0] * state + of_image[1] * output == pytest.approx(image)
    assert of_noise[0] * state + of_noise[1] * output == pytest.approx(noise)


def test_a_pipeline_without_a_denoiser_is_refused(model, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "AuraFlowPipeline"}))
    said = "no denoiser is for the pipeline 'AuraFlowPipeline', only for"
    with pytest.raises(UserError, match=said):
        load_policy(tiny.generation_settings(model=str(tmp_path)))
    with pytest.raises(UserError, match="chain: there is no rocm_core/policies/chains/lcn.py"):
        load_policy(tiny.generation_settings(model=model, chain="lcn"))
