"""Backpropagation through some of the steps, and divergences of single ones: first updates known by
hand, finite differences, and what a plan counts of them."""

import math

import numpy as np
import pytest
import tiny
import torch
import toy
from updates import STEPS, Chain, algorithm, batch, first_update, load

from rocm_core.algorithms import Batch, load_algorithm
from rocm_core.errors import UserError
from rocm_core.grid import parse_config, training_work
from rocm_core.policies import lora_parameters

TEXTS = ["cat", "cat", "dog", "dog"]


def whole(policy, given, **changes):
    gradients = toy.Gradients(policy)
    gradients.parameters = list(lora_parameters(policy.network).values())
    algorithm("direct", **changes).update(policy, tiny.Brightness(), [given], gradients)
    return gradients.steps[0]


def test_truncated_first_updates_are_the_ones_derived_by_hand():
    """Full, of both steps; `1`, of the last alone; a stopped input, which on a chain that is all
    network cuts every path between steps; and noise drawn twice for the last step."""
    policy = toy.ToyPolicy(STEPS, deterministic=True)
    given = batch(policy)
    chain = Chain(policy, given)
    slope, (x2, x1, _) = chain.slope, chain.states
    first = chain.gain[1] * slope
    last = [0, np.mean(slope * x1), 0, np.mean(slope)]
    full = [np.mean(first * x2), last[1], np.mean(first), last[3]]
    for changes, expected in (
        ({}, full),
        ({"truncate": 2}, full),
        ({"truncate": 1}, last),
        ({"truncate": "last"}, last),
        ({"stop_input": True}, last),
    ):
        (gradient,), seen = first_update("direct", policy, given, **changes)
        assert gradient.tolist() == pytest.approx([-value for value in expected]), changes
        assert seen.reward.tolist() == pytest.approx(chain.reward)

    drawn = {}

    def note(state, embeddings):
        drawn[len(drawn)] = state.flatten().numpy()
        return type(policy).finish(policy, state, embeddings)

    policy.finish = note
    redrawn = {"truncate": "last", "low_variance": 2}
    (gradient,), seen = first_update("direct", policy, given, **redrawn)
    draws = np.stack([drawn[0], drawn[1]])
    noise = (draws - 0.6 * chain.final) / 0.8  # the level at which the last step begins
    assert abs(noise.mean()) < 0.8 and 0.5 < noise.std() < 1.5 and not np.allclose(*noise)
    ends = chain.gain[1] * draws
    slope = -2 * (ends - toy.TARGET)
    assert gradient.tolist() == pytest.approx([0, -np.mean(slope * draws), 0, -np.mean(slope)])
    assert seen.reward.tolist() == pytest.approx(-((ends - toy.TARGET) ** 2).mean(0))


class CountedPolicy(toy.ToyPolicy):
    """Knows how often its network saw an image."""

    evaluations = 0

    def mean(self, index, state, embeddings, stop_input=False):
        self.evaluations += len(state)
        return super().mean(index, state, embeddings, stop_input)


class CountedCloseness(toy.Closeness):
    scorings = 0

    def score(self, images, prompts):
        self.scorings += len(images)
        return super().score(images, prompts)


def test_at_equal_cost_noise_drawn_again_scatters_more_than_further_images():
    """On two steps, two draws for each of n images cost what 2n images do, in evaluations and in
    scorings. Where α x_0 + σ ε has the law of x_1 both have one mean. The draws of an image share
    its x_0, so that their covariance, which is the variance of what x_0 alone says, is added: by
    hand, of g = 2 (w x - 1) in shift and x g in gain, with x ~ N(0, v) and correlation c. Draws
    cost no further rollout, though: for each image that is rolled out they scatter less."""
    policy, reward = CountedPolicy(STEPS, deterministic=True), CountedCloseness()
    signal, std = policy.chain.last_step
    v = toy.GAIN**2 + toy.STD**2
    w = math.sqrt((v - std**2) / v) / signal  # α² w² v + σ² = v: the chain keeps its law
    with torch.no_grad():
        policy.network.gain[1] = w
    images, updates, found, costs = 4, 1000, {}, []
    for name, size, changes in (
        ("further images", 2 * images, {"truncate": "last"}),
        ("drawn again", images, {"truncate": "last", "low_variance": 2}),
    ):
        policy.evaluations = reward.scorings = 0
        learner, gradients = algorithm("direct", **changes), toy.Gradients(policy)
        generator = torch.Generator().manual_seed(0)
        for _ in range(updates):
            learner.update(policy, reward, [toy.batch(policy, size, generator)], gradients)
        found[name] = torch.stack(gradients.steps)[:, [1, 3]]  # of the last step
        costs.append((policy.evaluations, reward.scorings))
    assert costs[0] == costs[1] == (4 * images * updates, 2 * images * updates)
    mean = torch.tensor([2 * w * v, -2.0])
    for gradient in found.values():
        error = gradient.std(0) / math.sqrt(updates)
        assert ((gradient.mean(0) - mean) / error).abs().max() < 3
    c = signal**2 * w**2
    variance = np.array([8 * w**2 * v**2 + 4 * v, 4 * w**2 * v])
    covariance = np.array([8 * w**2 * v**2 * c**2 + 4 * v * c, 4 * w**2 * v * c])
    further, again = (gradient.var(0).numpy() for gradient in found.values())
    print("variance of drawing again over that of further images:", again / further)
    assert further == pytest.approx(variance / (2 * images), rel=0.1)
    assert again == pytest.approx((variance + covariance) / (2 * images), rel=0.1)
    assert (further < again).all() and (again < 2 * further).all()


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    policy = load(tmp_path_factory.mktemp("models"), "consistency", dtype=torch.float64)
    noise = policy.noise(0, ["a", "b"], "test")
    return policy, Batch(["cat", "dog"], policy.encode_prompts(["cat", "dog"]), noise)


@pytest.mark.parametrize("divergence", ["none", "kl"])
@pytest.mark.parametrize("reference", ["full", "stop"])
@pytest.mark.parametrize("mode", ["none", "step", "block"])
def test_truncation_at_the_whole_chain_changes_no_bit(double, divergence, reference, mode):
    policy, given = double
    changes = {"divergence": divergence, "beta": 0.02, "reference_gradient": reference}
    policy.activation_checkpointing = mode
    full = whole(policy, given, **changes)
    assert torch.equal(whole(policy, given, **changes, truncate=3), full)
    partial = whole(policy, given, **changes, truncate=2)
    assert not torch.allclose(partial, full, rtol=0.1)
    policy.activation_checkpointing = "none"
    assert torch.allclose(whole(policy, given, **changes, truncate=2), partial)


@pytest.mark.parametrize("stop_input", [False, True])
@pytest.mark.parametrize("truncate", [1, 2])
def test_a_truncated_gradient_is_finite_differences_of_the_last_steps_alone(
    double, truncate, stop_input
):
    """The states before them, and with `stop_input` what networks see, stay where they are."""
    policy, given = double
    gradient = whole(policy, given, truncate=truncate, stop_input=stop_input)
    with torch.no_grad():
        steps = policy.rollout(given.embeddings, given.noise).transitions
    states = [*(step.state for step in steps), steps[-1].next_state]
    network = policy.denoiser.predict

    def objective():
        state = states[3 - truncate]
        for index in range(3 - truncate, 3):
            seen = states[index] if stop_input else state
            policy.denoiser.predict = lambda _, *rest, seen=seen: network(seen, *rest)
            state = policy.mean(index, state, given.embeddings)
            if index < 2:
                state = state + policy.stds[index] * given.noise[:, index + 1]
        policy.denoiser.predict = network
        return float(-tiny.Brightness().score(policy.decode(state), given.prompts).mean())

    start = 0
    for place, parameter in enumerate(lora_parameters(policy.network).values()):
        if place % 4 == 0:
            flat, index = parameter.data.view(-1), parameter.numel() // 2
            value, ends = flat[index].item(), []
            for sign in (1, -1):
                flat[index] = value + sign * 1e-5
                with torch.no_grad():
                    ends.append(objective())
            flat[index] = value
            expected = (ends[0] - ends[1]) / 2e-5
            assert gradient[start + index].item() == pytest.approx(expected, rel=1e-4, abs=1e-9)
        start += parameter.numel()


def test_a_random_number_of_steps_is_drawn_for_each_iteration():
    policy = toy.ToyPolicy(3)
    learner, given = (
        algorithm("direct", truncate=[1, 3]),
        toy.batch(policy, 4, torch.Generator().manual_seed(0)),
    )
    found, gradients = [], toy.Gradients(policy)
    for seed in range(30):
        torch.manual_seed(seed)
        learner.update(policy, toy.Closeness(), [given, given], gradients)
        found.append(learner.drawn)
        moved = gradients.steps[-1].view(2, 3).abs().sum(0) > 0
        assert moved.tolist() == [index >= 3 - learner.drawn for index in range(3)]
    assert set(found) == {1, 2, 3}


def test_a_chain_that_truncation_leaves_nothing_of_is_refused():
    policy = toy.ToyPolicy(STEPS)
    given = toy.batch(policy, 4, torch.Generator().manual_seed(0))
    for changes in ({"truncate": "last"}, {"truncate": 1, "low_variance": 2}):
        with pytest.raises(UserError, match="this policy's chain has none"):
            first_update("direct", policy, given, **changes)
    with pytest.raises(UserError, match="hybrid differentiates the steps that draw no noise"):
        first_update("hybrid", policy, given)
    last = toy.ToyPolicy(STEPS, deterministic=True)
    given = toy.batch(last, 4, torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="truncate: 1 leaves the divergence no gradient"):
        first_update("direct", last, given, truncate=1, divergence="kl", beta=0.1)


def test_the_images_that_are_scored_are_counted():
    assert algorithm("direct").scorings == algorithm("grpo").scorings == 1
    assert algorithm("direct", truncate="last", low_variance=3).scorings == 3
    assert algorithm("hybrid", inner_epochs=2).scorings == 3
    for name, changes in (
        ("direct", {"truncate": "last", "low_variance": 3}),
        ("hybrid", {"inner_epochs": 2}),
        ("rebel", {"inner_epochs": 2}),
    ):
        policy, scored = toy.ToyPolicy(STEPS, deterministic=True), []

        class Counted(toy.Closeness):
            def score(self, images, prompts, scored=scored):
                scored.append(len(images))
                return super().score(images, prompts)

        learner = algorithm(name, **changes)
        given = toy.batch(policy, 4, torch.Generator().manual_seed(0))
        learner.update(policy, Counted(), [given], toy.Gradients(policy))
        assert sum(scored) == 4 * learner.scorings, name


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("rocm-kl", {"beta": 0.1, "last_step_divergence": True}),
        ("rocm-none", {"truncate": "last", "low_variance": 3}),
        ("rocm-none", {"truncate": 2, "stop_input": True}),
        ("grpo-consistency-kl", {"beta": 0.1, "inner_epochs": 2}),
        ("grpo-consistency-kl", {"beta": 0.1, "last_step_divergence": True}),
        ("hybrid-consistency", {"inner_epochs": 2}),
        ("rebel-consistency", {"inner_epochs": 2}),
        ("rebel-consistency", {}),
    ],
)
def test_a_plan_counts_the_passes_and_the_images_that_there_are(
    grid_cells, method, changes, tmp_path
):
    settings = changes | ({} if "rocm" in method else {"images_per_prompt": 2})
    (cell,) = grid_cells({method: settings})
    config = parse_config(grid_cells.values({method: settings}))
    policy = load(tmp_path, "consistency", steps=4)
    given = Batch(TEXTS, policy.encode_prompts(TEXTS), policy.noise(0, list("abcd"), "test"))
    scored = []

    class Counted(tiny.Brightness):
        def score(self, images, prompts):
            scored.append(len(images) * (1 + images.requires_grad))
            return super().score(images, prompts)

    load_algorithm(cell.settings).update(policy, Counted(), [given], toy.Gradients(policy))
    work = training_work(config, cell.settings, rounds=False)
    assert policy.nfe == 4 * work.forward and sum(scored) == 4 * work.scored


# The divergence of single steps, and of the last


@pytest.mark.parametrize("name", ["direct", "grpo", "hybrid"])
def test_steps_and_the_last_one_are_regularised_with_their_weights(name):
    """Off its reference, β Σ_k w_k d²_k/2, the last at its noise level of 0.6 and 0.8."""
    policy, beta, weights = toy.ToyPolicy(STEPS, deterministic=True), 0.3, [0.5, 2.0]
    with torch.no_grad():
        policy.network.shift.copy_(torch.tensor([0.2, -0.4]))
        policy.network.gain.copy_(torch.tensor([0.7, 0.9]))
    given, gradients = batch(policy), []
    changes = {"divergence": "kl", "step_weights": weights, "last_step_divergence": True}
    changes |= {"reference_gradient": "stop"} if name == "direct" else {}
    for value in (0.0, beta):
        (gradient,), seen = first_update(name, policy, given, **changes, beta=value)
        gradients.append(gradient)
    x2, x1, _ = Chain(policy, given).states
    change = np.stack([-0.1 * x2 + 0.2, 0.6 * (0.1 * x1 - 0.4)])
    distances = (change / np.array([[toy.STD], [0.8]])) ** 2
    expected = (np.array(weights)[:, None] * distances / 2).sum(0)
    assert seen.divergence.tolist() == pytest.approx(expected)
    assert seen.squared_distances.flatten().tolist() == pytest.approx(distances[0])
    assert float(seen.diagnostics["squared_distance_1"]) == pytest.approx(distances[1].mean())
    slope = beta * np.array(weights)[:, None] * change / np.array([[toy.STD**2], [0.64]])
    slope[1] *= 0.6
    by_hand = [*(slope * np.stack([x2, x1])).mean(1), *slope.mean(1)]
    assert (gradients[1] - gradients[0]).tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize("reference", ["full", "stop"])
@pytest.mark.parametrize("mode", ["none", "step"])
def test_the_last_steps_divergence_is_differentiated_exactly(double, reference, mode):
    policy, given = double
    changes = {"divergence": "kl", "reference_gradient": reference, "step_weights": [0, 0, 1.0]}
    policy.activation_checkpointing = mode
    weighed = [
        whole(policy, given, **changes, last_step_divergence=True, beta=beta) for beta in (0.0, 0.5)
    ]
    policy.activation_checkpointing = "none"
    signal, std = policy.chain.last_step
    steps = policy.rollout(given.embeddings, given.noise).transitions
    state = steps[-1].next_state if reference == "full" else steps[-1].next_state.detach()
    with policy.reference():
        base = policy.mean(2, state, given.embeddings)
    change = signal * (policy.mean(2, state, given.embeddings) - base) / std
    loss = 0.5 * change.square().sum((1, 2, 3)).mean() / 2
    parameters = list(lora_parameters(policy.network).values())
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
    assert torch.allclose(weighed[1] - weighed[0], expected, rtol=1e-6, atol=1e-10)
    assert expected.abs().max() > 1e-6


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("rocm-kl", {"step_weights": [1, 1]}, "step_weights must be 3 numbers"),
        ("rocm-kl", {"step_weights": [1, 1, 1], "last_step_divergence": True}, "be 4 numbers"),
        ("rocm-kl", {"step_weights": [1, -1, 1]}, r"step_weights\[1\] must be a number from 0"),
        ("direct-diffusion-kl", {"step_weights": [1, 1, 1]}, "step_weights must be 4 numbers"),
        ("d3po-consistency-kl", {"last_step_divergence": True}, "has no effect on d3po"),
        ("rlcm", {"last_step_divergence": True}, "has no effect without a divergence: remove it"),
        ("rocm-none", {"step_weights": [1, 1, 1]}, "has no effect without a divergence: remove it"),
    ],
)
def test_weights_of_other_steps_than_the_chains_are_refused(grid_cells, method, settings, said):
    given = settings | ({"beta": 0.1} if "kl" in method else {})
    given |= {"images_per_prompt": 2, "batch_size": 2} if "d3po" in method else {}
    with pytest.raises(UserError, match=said):
        grid_cells({method: given})


def test_with_its_own_divergence_the_last_step_alone_can_be_trained(grid_cells):
    settings = {"beta": 0.1, "truncate": "last", "last_step_divergence": True}
    (cell,) = grid_cells({"rocm-kl": settings | {"step_weights": [0, 0, 0, 1]}})
    assert cell.settings.to_dict()["last_step_divergence"] is True
    assert {"step_weights", "truncate", "stop_input"} & grid_cells({"rocm-kl": {"beta": 0.1}})[
        0
    ].settings.to_dict().keys() == set()
