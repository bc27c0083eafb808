"""Below float32, policy and reference come from one pass that keeps rounding out of their distance.

Adapters are trained ones: without an effect of its own, no adapter is apart from the reference.
"""

import json
import math

import pytest
import tiny
import torch
import toy
from accelerate import Accelerator
from peft import inject_adapter_in_model
from torch import nn

from rocm_core.algorithms import Batch, load_algorithm
from rocm_core.policies import (
    MODES,
    Policy,
    add_adapter,
    add_reference,
    gaussian,
    lora_parameters,
    reference as adapter_off,
)
from rocm_core.policies.compensation import Pair, compensated
from rocm_core.training import Trainer, predict_peak, train

SHAPES = "resources/shapes/consistency"
PROMPTS = ["a red circle", "two green triangles"]
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
LEVELS = (0.0, 1e-5, 1e-4, 1e-3)  # of d² per latent dimension


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    kinds = "consistency", "diffusion"
    return {kind: str(tiny.write_pipeline(folder / kind, policy=kind)) for kind in kinds}


def load(models, kind="consistency", dtype=torch.bfloat16, size=0.1):
    policy = tiny.load_policy(kind, models[kind], 3, 4.0, dtype=dtype)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    tiny.perturb(policy.network, size)
    return policy


def batch_for(policy, texts=PROMPTS):
    noise = policy.noise(0, [str(i) for i in range(len(texts))], "test")
    return Batch(texts, policy.encode_prompts(texts), noise)


def two_passes(monkeypatch):
    """How it would be without compensation."""
    monkeypatch.setattr(Policy, "compensates", False)


# What it computes


@pytest.fixture(scope="module", params=["consistency", "diffusion", "moving reference"])
def double(models, request):
    moves = request.param == "moving reference"
    policy = load(models, "consistency" if moves else request.param, torch.float64)
    reference = add_reference(policy.network) if moves else {}
    for name, value in reference.items():
        value.data += 0.2 * gaussian(2, [name], tuple(value.shape), "reference")[0]
    for parameter in [*lora_parameters(policy.network).values(), *reference.values()]:
        parameter.data = parameter.data.double()
    return policy


def test_in_double_precision_it_is_what_two_passes_are(double):
    batch = batch_for(double)
    state = batch.noise[:, 0]
    with torch.no_grad():
        for index in range(double.steps):
            mean, reference_mean = double.means(index, state, batch.embeddings, both=True)
            assert torch.allclose(mean, double.mean(index, state, batch.embeddings), atol=1e-12)
            with double.reference():
                expected = double.mean(index, state, batch.embeddings)
            assert torch.allclose(reference_mean, expected, rtol=0, atol=1e-12)
            assert (mean - reference_mean).abs().max() > 1e-3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reference", ["full", "stop"])
def test_in_double_precision_its_gradient_is_that_of_two_passes(
    double, monkeypatch, reference, mode
):
    settings = tiny.settings(divergence="js", beta=0.1, reference_gradient=reference)
    gradients = []
    for both in (False, True):
        monkeypatch.setattr(Policy, "compensates", both)
        double.activation_checkpointing = mode
        loss, _ = load_algorithm(settings).loss(double, tiny.Brightness(), batch_for(double))
        parameters = list(lora_parameters(double.network).values())
        values = torch.autograd.grad(loss, parameters)
        gradients.append(torch.cat([value.flatten() for value in values]))
    expected, gradient = gradients
    assert 0 < (gradient - expected).norm() < 1e-10 * expected.norm()


class Odd(nn.Module):
    """Functions that no rule knows, and arguments in every place."""

    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(6, 6)

    def forward(self, x):
        y = self.to_q(x)
        z = 1 - y.softmax(-1) @ y.transpose(-1, -2) / (1 + y.square().mean())
        a, b = torch.cat([x, y], -1).chunk(2, dim=-1)
        w = torch.nn.functional.scaled_dot_product_attention(y[None], x[None], b[None])[0]
        return torch.stack([z.max() * a, torch.where(x > 0, y, x), w, x * y - 2, x / y.exp()]).sum()


def test_what_no_rule_knows_is_the_difference_of_two_values():
    torch.manual_seed(0)
    network, x = Odd(), torch.randn(6, 6, dtype=torch.double)
    network.add_adapter = lambda config, name: inject_adapter_in_model(config, network, name)
    add_adapter(network, 2, 2.0, ["to_q"], seed=0)
    tiny.perturb(network)
    network.double()
    with torch.no_grad():
        total = network(x)
        with adapter_off(network):
            value = network(x)
        with compensated(network):
            pair = network(x)
    assert (total - value).abs() > 1e-3
    assert torch.allclose(pair.value, value, rtol=1e-12)
    assert torch.allclose(pair.change, total - value, rtol=1e-9)


def test_what_works_in_place_is_refused():
    pair = Pair(torch.zeros(2), torch.ones(2))
    with pytest.raises(TypeError, match="add_ works in place"):
        pair.add_(1)


# What it reports


@pytest.fixture(scope="module")
def trained():
    """Policies of the embedded world in float32 and bfloat16, a batch of noise, and the values of
    an adapter that three fast steps have trained in float32."""
    settings = tiny.settings(
        **{"model": SHAPES, "inference_steps": 4, "guidance_scale": 1.0, "lora_rank": 8},
        **{"lora_targets": TARGETS, "learning_rate": 1e-3, "divergence": "kl"},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rocm_core.training.trainer.load_reward", lambda *_: tiny.Brightness())
        trainer = Trainer(settings, tiny.PROMPTS, "f00d", Accelerator(cpu=True))
    for step in (1, 2, 3):
        trainer.iterate(step)
    policies = []
    for dtype in (torch.float32, torch.bfloat16):
        policies.append(tiny.load_policy("consistency", SHAPES, 4, 1.0, dtype=dtype))
        add_adapter(policies[-1].network, 8, 6.0, TARGETS, seed=0)
    noise = policies[0].noise(0, ["a", "b", "c", "d"], "test")
    return *policies, noise, {k: v.detach() for k, v in trainer.lora.items()}


def set_adapter(policy, values, strength):
    with torch.no_grad():
        for name, parameter in lora_parameters(policy.network).items():
            parameter.copy_(values[name] * (strength if ".lora_B." in name else 1))


@torch.no_grad()
def mean_squared_distance(policy, noise, visited_by=None):
    """Along its own trajectories, or at the states of another's."""
    embeddings = policy.encode_prompts(PROMPTS * 2)
    if visited_by is None:
        steps = policy.rollout(embeddings, noise, "full").transitions
    else:
        theirs = visited_by.rollout(visited_by.encode_prompts(PROMPTS * 2), noise).transitions
        steps = [policy.reevaluate(i, s, embeddings, True) for i, s in enumerate(theirs)]
    return torch.stack([step.squared_distance("mean") for step in steps]).mean().item()


def strength_for(level, exact, noise, values):
    """How strong the trained adapter has to be for a d² in float32."""
    strength = 1.0
    for _ in range(4 if level else 0):
        set_adapter(exact, values, strength)
        strength *= math.sqrt(level / mean_squared_distance(exact, noise))
    return strength if level else 0.0


@pytest.mark.parametrize("level", LEVELS)
def test_the_distance_of_a_trained_adapter_is_that_of_float32(trained, monkeypatch, level):
    exact, half, noise, values = trained
    strength = strength_for(level, exact, noise, values)
    for policy in (exact, half):
        set_adapter(policy, values, strength)
    assert mean_squared_distance(exact, noise) == pytest.approx(level, rel=0.02)
    # Rounding leads half to other states, so that their own trajectories say little of four images.
    reported = mean_squared_distance(half, noise)
    assert reported == pytest.approx(mean_squared_distance(exact, noise, half), rel=0.03)
    assert reported == pytest.approx(level, rel=0.2)
    if level == 1e-5:
        two_passes(monkeypatch)
        assert mean_squared_distance(half, noise) > 5 * level


def gradient_of_distance(policy, noise, reference):
    embeddings = policy.encode_prompts(PROMPTS * 2)
    loss = policy.rollout(embeddings, noise, reference).squared_distances("mean").sum()
    values = torch.autograd.grad(loss, list(lora_parameters(policy.network).values()))
    return torch.cat([value.flatten() for value in values])


@pytest.mark.parametrize("reference", ["full", "stop"])
def test_so_is_its_gradient(trained, monkeypatch, reference):
    exact, half, noise, values = trained
    strength = strength_for(1e-5, exact, noise, values)
    for policy in (exact, half):
        set_adapter(policy, values, strength)
    expected = gradient_of_distance(exact, noise, reference)
    error = (gradient_of_distance(half, noise, reference) - expected).norm()
    assert error < 0.1 * expected.norm()
    two_passes(monkeypatch)
    assert (gradient_of_distance(half, noise, reference) - expected).norm() > 10 * error


# Ratios


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "ppo"},
        {"algorithm": "ppo", "inner_epochs": 2, "horizon": "released"},
        {"algorithm": "ppo", "divergence": "kl", "beta": 0.1, "horizon": "released"},
        {"algorithm": "dpok", "divergence": "kl", "beta": 0.1},
        {"algorithm": "d3po", "divergence": "kl", "beta": 1.0, "images_per_prompt": 2},
    ],
)
def test_the_ratio_to_the_same_weights_is_exactly_one(models, settings):
    policy = load(models)
    algorithm = load_algorithm(tiny.settings(**settings))
    batch, asked = batch_for(policy), []
    sample = algorithm.sample(policy, tiny.Brightness(), batch)
    algorithm.loss = lambda now, past, advantage: (
        asked.append((now, past)) or (0 * now.mean.sum(), torch.zeros(()))
    )
    advantages = torch.zeros(len(PROMPTS), len(sample.transitions))
    algorithm._learn(policy, sample, advantages, 1, toy.Gradients(policy))
    assert len(asked) == len(policy.stds) + (settings.get("horizon") == "released")
    for now, past in asked:
        ratio = now.log_ratio("sum", past.mean).exp()
        assert torch.equal(ratio, torch.ones(len(PROMPTS))) and now.mean.requires_grad


def test_a_small_change_of_the_weights_gives_the_ratios_of_float32(trained, monkeypatch):
    exact, half, noise, values = trained
    moved = {name: value * (1.05 if ".lora_B." in name else 1) for name, value in values.items()}

    @torch.no_grad()
    def ratios(policy):
        embeddings = policy.encode_prompts(PROMPTS * 2)
        set_adapter(policy, values, 1.0)
        steps = policy.rollout(embeddings, noise, compared=True).transitions
        set_adapter(policy, moved, 1.0)
        return torch.stack(
            [
                policy.reevaluate(i, past, embeddings, compared=True).log_ratio("mean", past.mean)
                for i, past in enumerate(steps)
            ]
        )

    expected = ratios(exact)
    assert 1e-5 < expected.abs().max() < 1e-3
    assert (ratios(half) - expected).abs().max() < 0.2 * expected.abs().max()
    two_passes(monkeypatch)
    assert (ratios(half) - expected).abs().max() > expected.abs().max()


# What surrounds it


@pytest.mark.parametrize("reference", ["full", "stop"])
@pytest.mark.parametrize("mode", MODES)
def test_the_predicted_peak_is_the_measured_one(models, reference, mode):
    settings = tiny.settings(divergence="kl", beta=0.1, reference_gradient=reference)
    policy, algorithm, reward = load(models), load_algorithm(settings), tiny.Brightness()
    batch = batch_for(policy)
    predicted = predict_peak(policy, reward, batch, reference, mode)
    policy.activation_checkpointing = mode
    assert predicted == pytest.approx(tiny.peak_bytes(policy, algorithm, batch), rel=0.1)


@pytest.mark.parametrize("reference", ["full", "stop"])
def test_checkpointing_changes_no_bit_of_the_gradient(models, reference):
    settings = tiny.settings(divergence="kl", beta=0.1, reference_gradient=reference)
    gradients = []
    for mode in MODES:
        policy = load(models)
        policy.activation_checkpointing = mode
        loss, _ = load_algorithm(settings).loss(policy, tiny.Brightness(), batch_for(policy))
        values = torch.autograd.grad(loss, list(lora_parameters(policy.network).values()))
        gradients.append(torch.cat([value.flatten() for value in values]))
    plain, *checkpointed = gradients
    assert plain.abs().max() > 0
    assert all(torch.equal(plain, gradient) for gradient in checkpointed)


def test_passes_are_counted_as_two(models):
    policy = load(models)
    batch = batch_for(policy)
    policy.rollout(batch.embeddings, batch.noise)
    assert policy.nfe == 2 * 3
    policy.rollout(batch.embeddings, batch.noise, "full")
    assert policy.nfe == 2 * (3 + 3 + 2)
    policy.rollout(batch.embeddings, batch.noise, compared=True)
    assert policy.nfe == 2 * (3 + 3 + 2 + 2 * 3)


def test_the_manifest_states_what_rounding_leaves(models, monkeypatch, reward, tmp_path):
    def floor(name, **changes):
        settings = tiny.settings(model=models["consistency"], divergence="kl", beta=0.1, **changes)
        train(settings, tiny.PROMPTS, tmp_path / name, tmp_path / f"{name}-state", "f00d")
        return json.loads((tmp_path / name / "manifest.json").read_text())["squared_distance_floor"]

    assert floor("single") is None
    half = floor("half", precision="bfloat16", learning_rate=1e-4)
    two_passes(monkeypatch)
    assert 0 < 100 * half < floor("two-passes", precision="bfloat16", learning_rate=1e-4)
