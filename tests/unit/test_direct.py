"""ROCM's objective and its gradient, against finite differences in double precision."""

import math
from types import SimpleNamespace

import pytest
import tiny
import torch

from rocm_core.algorithms import Batch, load_algorithm
from rocm_core.divergences import load_divergence
from rocm_core.errors import UserError
from rocm_core.plugins import names
from rocm_core.policies import MODES, add_adapter, lora_parameters, reference as adapter_off
from rocm_core.training import AdapterOptimiser

BETA = 0.02
PROMPTS = ["a red cat", "two dogs"]
SETTINGS = tiny.settings(divergence="kl", beta=BETA, batch_size=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny.write_pipeline(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def double(model):
    """Three steps in float64 with an adapter off its origin; tests must leave it as it is."""
    policy = tiny.load_policy("consistency", model, 3, 4.0, dtype=torch.float64)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    for parameter in lora_parameters(policy.network).values():
        parameter.data = parameter.data.double()
    tiny.perturb(policy.network, 0.1)
    return policy


def batch_for(policy):
    noise = policy.noise(0, ["a", "b"], "test")
    return Batch(PROMPTS, policy.encode_prompts(PROMPTS), noise)


def objective(policy, settings, with_gradient=False, mode="none"):
    algorithm = load_algorithm(settings)
    policy.activation_checkpointing = mode
    loss, statistics = algorithm.loss(policy, tiny.Brightness(), batch_for(policy))
    if not with_gradient:
        return loss.detach(), statistics
    parameters = list(lora_parameters(policy.network).values())
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def coordinates(policy, count=6):
    """(parameter, index, place in the flattened gradient), spread over the adapter."""
    start, places = 0, []
    for parameter in lora_parameters(policy.network).values():
        places.append((parameter, parameter.numel() // 2, start + parameter.numel() // 2))
        start += parameter.numel()
    return places[:: len(places) // count]


def central_difference(function, parameter, index, width=1e-5):
    values = []
    flat = parameter.data.view(-1)
    start = flat[index].item()
    for sign in (1, -1):
        flat[index] = start + sign * width
        with torch.no_grad():
            values.append(float(function()))
    flat[index] = start
    return (values[0] - values[1]) / (2 * width)


@pytest.mark.parametrize(
    ("divergence", "reduction"), [("none", "sum"), ("kl", "sum"), ("js", "mean"), ("fisher", "sum")]
)
def test_the_gradient_through_the_whole_trajectory_is_exact(double, divergence, reduction):
    settings = tiny.settings(divergence=divergence, reduction=reduction, beta=BETA)
    gradients = {mode: objective(double, settings, True, mode) for mode in MODES}
    for parameter, index, place in coordinates(double):
        expected = central_difference(lambda: objective(double, settings)[0], parameter, index)
        assert abs(expected) > 1e-7
        for mode, gradient in gradients.items():
            assert gradient[place].item() == pytest.approx(expected, rel=1e-5, abs=1e-9), mode


def test_stop_is_the_gradient_with_the_states_held_fixed_in_the_divergence(double):
    settings = tiny.settings(divergence="hellinger", beta=0.5, reference_gradient="stop")
    gradient = objective(double, settings, with_gradient=True)
    batch, divergence = batch_for(double), load_divergence("hellinger")
    with torch.no_grad():
        trajectory = double.rollout(batch.embeddings, batch.noise)
        states = [step.state for step in trajectory.transitions]

    def with_fixed_states():
        latents = double.rollout(batch.embeddings, batch.noise).latents
        reward = tiny.Brightness().score(double.decode(latents), PROMPTS).mean()
        total = 0.0
        for index, (state, std) in enumerate(zip(states, double.stds, strict=True)):
            mean = double.mean(index, state, batch.embeddings)
            with adapter_off(double.network):
                reference = double.mean(index, state, batch.embeddings)
            squared_distance = ((mean - reference) / std).square().sum((1, 2, 3))
            total = total + divergence(squared_distance, std).mean()
        return -reward + 0.5 * total

    for parameter, index, place in coordinates(double):
        expected = central_difference(with_fixed_states, parameter, index)
        assert gradient[place].item() == pytest.approx(expected, rel=1e-5, abs=1e-9)
    full = objective(double, tiny.settings(divergence="hellinger", beta=0.5), with_gradient=True)
    assert (gradient - full).abs().max() > 1e-3 * full.abs().max()


@pytest.mark.parametrize("reference", ["full", "stop"])
@pytest.mark.parametrize("divergence", ["none", "kl"])
def test_checkpointing_changes_no_bit_of_the_gradient(double, divergence, reference):
    settings = tiny.settings(divergence=divergence, beta=BETA, reference_gradient=reference)
    plain, *checkpointed = (objective(double, settings, True, mode) for mode in MODES)
    assert plain.abs().max() > 0
    assert all(torch.equal(plain, gradient) for gradient in checkpointed)


def test_checkpointing_keeps_states_instead_of_activations(double):
    def kept(reference, mode):
        """Bytes that a rollout saves for its backward pass, the adapter's own left out."""
        own = {parameter.data_ptr() for parameter in double.network.parameters()}
        seen = {}

        def note(tensor):
            if tensor.data_ptr() not in own:
                seen[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        batch, double.activation_checkpointing = batch_for(double), mode
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            trajectory = double.rollout(batch.embeddings, batch.noise, reference)
        assert trajectory.latents.requires_grad
        return sum(seen.values())

    plain = {reference: kept(reference, "none") for reference in (None, "full", "stop")}
    for reference, size in plain.items():
        assert kept(reference, "step") < 0.1 * size
    assert plain["stop"] < 1.1 * plain[None] < 0.9 * plain["full"]


@pytest.fixture(scope="module")
def start(model):
    """An adapter at its origin, in float32, and its gradient without a divergence."""
    policy = tiny.load_policy("consistency", model, 3, 4.0)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    return policy, objective(policy, tiny.settings(divergence="none"), with_gradient=True)


@pytest.mark.parametrize("reference", ["full", "stop"])
@pytest.mark.parametrize("divergence", sorted(set(names("divergences")) - {"js_sampled"}))
def test_at_the_start_the_divergence_is_zero_and_its_gradient_finite(start, divergence, reference):
    policy, unregularised = start
    settings = tiny.settings(divergence=divergence, beta=BETA, reference_gradient=reference)
    loss, statistics = objective(policy, settings)
    assert torch.equal(statistics.divergence, torch.zeros(2))
    assert torch.equal(statistics.squared_distances, torch.zeros(2, 2))
    gradient = objective(policy, settings, with_gradient=True)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    assert torch.allclose(gradient, unregularised, rtol=1e-3, atol=1e-6)


def test_the_loss_is_minus_the_reward_plus_beta_times_the_divergence(double):
    batch = batch_for(double)
    with torch.no_grad():
        trajectory = double.rollout(batch.embeddings, batch.noise, reference="full")
        rewards = tiny.Brightness().score(double.decode(trajectory.latents), PROMPTS)
    kl = trajectory.squared_distances("sum") / 2
    loss, statistics = objective(double, tiny.settings(divergence="kl", beta=BETA))
    assert torch.allclose(loss, -rewards.mean() + BETA * kl.sum(1).mean())
    assert torch.allclose(statistics.reward, rewards)
    assert torch.allclose(statistics.divergence, kl.sum(1))
    assert torch.allclose(statistics.squared_distances, 2 * kl)


def test_the_reduction_comes_before_the_divergence(double):
    settings = tiny.settings(divergence="hellinger", beta=BETA, reduction="mean")
    _, statistics = objective(double, settings)
    mean = statistics.squared_distances / 64  # the latents' 4·4·4 numbers
    expected = (1 - torch.exp(-mean / 8)).sum(1)
    assert torch.allclose(statistics.divergence, expected)


def test_without_a_divergence_the_reference_is_never_evaluated(double):
    before = double.nfe
    objective(double, tiny.settings(divergence="none"))
    assert double.nfe - before == 2 * 3
    _, statistics = objective(double, tiny.settings(divergence="kl", beta=BETA))
    assert double.nfe - before == 2 * 3 + 2 * (3 + 2)


def test_a_divergence_without_weight_is_observed_only(double):
    gradient = objective(double, tiny.settings(divergence="chi2", beta=0.0), with_gradient=True)
    unregularised = objective(double, tiny.settings(divergence="none"), with_gradient=True)
    assert torch.equal(gradient, unregularised)


def test_an_update_averages_its_batches_and_steps_once(double):
    class Recorder:
        losses, steps = [], 0

        def backward(self, loss):
            self.losses.append(loss.item())

        def step(self):
            self.steps += 1

    recorder, batch = Recorder(), batch_for(double)
    algorithm = load_algorithm(tiny.settings(divergence="kl", beta=BETA))
    seen = algorithm.update(double, tiny.Brightness(), [batch, batch], recorder)
    assert recorder.steps == 1 and len(seen) == 2
    assert sum(recorder.losses) == pytest.approx(seen[0].loss.item())


def test_a_reward_without_gradient_is_refused(double):
    reward = tiny.Brightness()
    reward.differentiable = False
    with pytest.raises(UserError, match="reward brightness is not differentiable"):
        load_algorithm(SETTINGS).loss(double, reward, batch_for(double))


def test_the_documented_new_file_is_a_new_algorithm(model, tmp_path, monkeypatch):
    module = "rocm_core/algorithms/weighted.py"
    name = tiny.write_package(tmp_path, "documented_algorithms", module)
    monkeypatch.syspath_prepend(tmp_path)
    policy = tiny.load_policy("consistency", model, 3, 4.0)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    settings = tiny.settings(algorithm=name, temperature=2.0)
    optimiser = AdapterOptimiser(
        list(lora_parameters(policy.network).values()), settings, SimpleNamespace(num_processes=1)
    )
    batch = batch_for(policy)
    (seen,) = load_algorithm(settings).update(policy, tiny.Brightness(), [batch], optimiser)
    # A transition's log-probability under the policy that drew it is that of its noise.
    noise = batch.noise[:, 1:].square().mean((2, 3, 4))
    surprise = 0.5 * noise + policy.stds.log() + 0.5 * math.log(2 * math.pi)
    expected = ((seen.reward / 2.0).softmax(0) * surprise.sum(1)).sum()
    assert float(seen.loss) == pytest.approx(float(expected), rel=1e-4)
    assert 0 < optimiser.gradient_norm < float("inf")


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(
        UserError, match="there is no rocm_core/algorithms/indirect.py for 'indirect'; did you mean"
    ):
        load_algorithm(tiny.settings(algorithm="indirect"))
