"""A step does no hidden passes: its operations at SD1.5's size, counted without any weights."""

import contextlib

import open_clip
import pytest
import tiny
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models import UNET, VAE
from rocm_core.algorithms import Batch, load_algorithm
from rocm_core.grid.budget import SCORE
from rocm_core.grid.costs import STABLE_DIFFUSION as COSTS
from rocm_core.policies import HIDDEN, Policy, add_adapter
from rocm_core.policies.chains import Schedule, lcm
from rocm_core.policies.denoisers.stable_diffusion import StableDiffusion
from rocm_core.rewards.hpsv2 import HPSv2, preprocessing

STEPS = 3  # at 8 the same sum is 19.6 without a divergence, else 30.8
# TFLOP of one image at 512² with plain attention, as `make plan` reckons.
PASSES = COSTS.forward[0], COSTS.backward[0], 2 * (COSTS.decode[0] + SCORE)
REFERENCES = STEPS - 1  # the last step has none


@pytest.fixture(scope="module")
def policy():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET, time_cond_proj_dim=256)
        vae = AutoencoderKL(**VAE)
    noise = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    schedule = Schedule("sd15", {"_class_name": "LCMScheduler", **noise})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StableDiffusion, "encode", lambda *_: {HIDDEN: torch.empty(1, 77, 768)})
        denoiser = StableDiffusion(unet, vae, None, None, 7.5, torch.device("meta"), torch.float32)
    denoiser.autocast = contextlib.nullcontext  # there is none for tensors without storage
    policy = Policy(denoiser, lcm.make(schedule, STEPS))
    add_adapter(policy.network, 16, 32.0, ["to_q", "to_k", "to_v", "to_out.0"], seed=0)
    return policy


@pytest.fixture(scope="module")
def reward():
    config = open_clip.get_model_config("ViT-H-14")
    with torch.device("meta"):
        clip = open_clip.CLIP(**config)
        reward = HPSv2(clip, None, preprocessing(clip, {})).requires_grad_(False).eval()
        reward._texts["a cat"] = torch.empty(config["embed_dim"])
    return reward


def tera(policy, reward, **settings):
    text = {HIDDEN: torch.empty(1, 77, 768, device="meta")}
    batch = Batch(["a cat"], text, policy.noise(0, ["a"], "test"))
    algorithm = load_algorithm(tiny.settings(**settings))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss, _ = algorithm.loss(policy, reward, batch)
        loss.backward()
    return counter.get_total_flops() / 1e12


@pytest.mark.parametrize(
    "kind", ["full", *(pytest.param(k, marks=pytest.mark.faults) for k in ("none", "stop"))]
)
def test_a_step_takes_the_passes_of_its_equation_and_no_more(policy, reward, kind):
    forward, backward, decoder_and_reward = PASSES
    expected = STEPS * (forward + backward) + decoder_and_reward
    regularised = {}
    if kind != "none":
        # The first state is noise, which needs no gradient. "full" passes backward through the
        # reference; "stop" passes backward through the policy twice.
        expected += REFERENCES * forward + (REFERENCES - 1) * backward
        regularised = {"divergence": "kl", "beta": 0.1, "reference_gradient": kind}
    assert tera(policy, reward, **regularised) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(("resolution", "expected"), zip(COSTS.sides, COSTS.forward, strict=True))
def test_a_forward_pass_takes_what_reproducing_says_of_its_resolution(
    policy, monkeypatch, resolution, expected
):
    monkeypatch.setattr(policy.denoiser, "latent_shape", (4, resolution // 8, resolution // 8))
    state = policy.noise(0, ["a"], "test")[:, 0]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        policy.mean(0, state, {HIDDEN: torch.empty(1, 77, 768, device="meta")})
    assert counter.get_total_flops() / 1e12 == pytest.approx(expected, rel=0.01)
