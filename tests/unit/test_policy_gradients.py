"""PPO, DPOK and D3PO against independent computations, and on a chain whose optimum is known."""

import copy
import dataclasses
import json
import math
from collections import defaultdict, deque
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
import toy
from diffusers import LCMScheduler
from torch.distributions import Normal, kl_divergence

from rocm_core.algorithms import Batch, load_algorithm
from rocm_core.algorithms._advantages import PromptStatistics
from rocm_core.errors import UserError
from rocm_core.policies import Transition, add_adapter
from rocm_core.training import AdapterOptimiser

TEXTS = ["cat", "cat", "dog", "dog"]
KINDS = ("consistency", "diffusion")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {kind: str(tiny.write_pipeline(folder / kind, policy=kind)) for kind in KINDS}


def load(models, kind, steps=3, dtype=torch.float32):
    policy = tiny.load_policy(kind, models[kind], steps, 3.0, dtype=dtype)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    tiny.perturb(policy.network)
    return policy


def batch_for(policy, texts=TEXTS):
    noise = policy.noise(0, [str(i) for i in range(len(texts))], "test")
    return Batch(texts, policy.encode_prompts(texts), noise)


def algorithm(name, **changes):
    return load_algorithm(tiny.settings(algorithm=name, **changes))


def transition(next_state, mean, std, reference_mean=None):
    """Of plain lists, one entry an image."""

    def tensor(values):
        return None if values is None else torch.tensor(values, dtype=torch.double)[:, None]

    zeros = torch.zeros(len(mean), 1, dtype=torch.double)
    std = torch.tensor(std, dtype=torch.double)
    return Transition(1, zeros, tensor(mean), std, tensor(next_state), tensor(reference_mean))


# Densities


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_torchs(models, kind):
    policy = load(models, kind)
    with torch.no_grad():
        batch = batch_for(policy)
        steps = policy.rollout(batch.embeddings, batch.noise, reference="full").transitions
    for step in steps:
        own = Normal(step.mean.double(), step.std.double()).log_prob(step.next_state.double())
        base = Normal(step.reference_mean.double(), step.std.double())
        ratio = own - base.log_prob(step.next_state.double())
        for reduction, reduce in (("sum", torch.sum), ("mean", torch.mean)):
            expected = reduce(own, (1, 2, 3))
            assert torch.allclose(step.log_prob(reduction).double(), expected, rtol=1e-5)
            expected = reduce(ratio, (1, 2, 3))
            assert expected.abs().min() > 1e-4
            assert torch.allclose(step.log_ratio(reduction).double(), expected, rtol=1e-3)


def test_a_small_ratio_of_large_latents_survives_single_precision():
    generator = torch.Generator().manual_seed(0)
    mean, noise, shift = torch.randn(3, 2, 4, 64, 64, generator=generator, dtype=torch.double)
    step = Transition(1, mean, mean, torch.tensor(0.3).double(), mean + 0.3 * noise, None)
    other = mean + 1e-6 * shift
    exact = step.log_ratio("sum", other)
    difference = step.log_prob() - replace(step, mean=other).log_prob()
    assert torch.allclose(exact, difference, atol=1e-9)
    values = {k: getattr(step, k).float() for k in ("state", "mean", "std", "next_state")}
    single = replace(step, **values)
    ours = single.log_ratio("sum", single.mean + (1e-6 * shift).float())
    assert (ours - exact).abs().max() < 2e-5  # less than ratios are clipped at
    assert torch.equal(single.log_ratio("sum", single.mean), torch.zeros(2))


# PPO


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(
    ("kind", "horizon"),
    [("consistency", "stochastic"), ("consistency", "released"), ("diffusion", "stochastic")],
)
def test_the_first_inner_step_is_reinforce(models, kind, horizon, reduction):
    policy = load(models, kind)
    parameters = [p for p in policy.network.parameters() if p.requires_grad]
    ppo = algorithm("ppo", reduction=reduction, horizon=horizon, ratio_clip=0.1, inner_epochs=2)
    batch, gradients, seen = batch_for(policy), toy.Gradients(policy), []
    ratio = ppo.ratio
    ppo.ratio = lambda *steps: seen.append((ratio(*steps), *steps)) or seen[-1][0]
    ppo.update(policy, tiny.Brightness(), [batch], gradients)

    steps = {"stochastic": len(policy.stds), "released": 3}[horizon]
    assert len(seen) == 2 * steps  # the parameters stay, so the second epoch repeats the first
    for values, *_ in seen:
        assert torch.equal(values, torch.ones(4))
    with torch.no_grad():
        trajectory = policy.rollout(batch.embeddings, batch.noise)
        reward = tiny.Brightness().score(policy.decode(trajectory.latents), TEXTS).numpy()
    advantage = torch.from_numpy((reward - reward.mean()) / (reward.std() + 1e-6))
    total = 0.0
    for index in range(steps):
        past = seen[index][2]
        mean, std = policy.mean(index, past.state, batch.embeddings), past.std
        if index == len(policy.stds):  # x_0 put back to the noise level at which its step began
            config = Path(models[kind], "scheduler", "scheduler_config.json")
            scheduler = LCMScheduler.from_config(json.loads(config.read_text()))
            level = scheduler.alphas_cumprod[policy.timesteps[-1]]
            mean, expected = level.sqrt() * mean, (1 - level).sqrt()
            assert torch.allclose(std, expected) and torch.equal(
                past.state, trajectory.transitions[-1].next_state
            )
        else:
            assert torch.equal(past.next_state, trajectory.transitions[index].next_state)
        density = Normal(mean, std).log_prob(past.next_state).flatten(1)
        density = density.sum(1) if reduction == "sum" else density.mean(1)
        total = total - (advantage * density).mean() / steps
    expected = torch.autograd.grad(total, parameters)
    expected = torch.cat([gradient.flatten() for gradient in expected])
    assert expected.abs().max() > 1e-4
    for gradient in gradients.steps:
        assert torch.allclose(
            gradient, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
        )


def surrogate_gradient(name, log_ratio, advantage, **changes):
    """d loss / d mean of one image, x = 1 under N(0, 1), that was drawn from N(p, 1).

    log ρ = -½ + ½(1 - p)², so p = 1 - √(1 + 2 log ρ).
    """
    now = transition([1.0], [0.0], 1.0)
    past = transition([1.0], [1 - math.sqrt(1 + 2 * log_ratio)], 1.0)
    now = replace(now, mean=now.mean.requires_grad_(True))
    loss, beyond = algorithm(name, **changes).loss(now, past, torch.tensor([advantage]).double())
    assert now.log_ratio("sum", past.mean).item() == pytest.approx(log_ratio, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, now.mean)
    return float(gradient), float(beyond)


@pytest.mark.parametrize("name", ["ppo", "dpok"])
def test_clipped_samples_have_no_gradient(name):
    def gradient(ratio, advantage):
        found, beyond = surrogate_gradient(name, math.log(ratio), advantage, ratio_clip=0.1)
        assert beyond == float(abs(ratio - 1) > 0.1)
        return found

    for ratio, advantage in ((1.05, 2.0), (0.95, -2.0), (0.95, 2.0), (1.05, -2.0)):
        # d/dm log N(1; m, 1) at m = 0 is 1
        assert gradient(ratio, advantage) == pytest.approx(-ratio * advantage)
    assert gradient(1.2, 2.0) == gradient(0.8, -2.0) == 0
    pushed_back = [gradient(1.2, -2.0), gradient(0.8, 2.0)]
    if name == "ppo":  # a pessimistic bound: what went the wrong way is brought back
        assert pushed_back == pytest.approx([2.4, -1.6])
    else:  # the release's clamp looks at the ratio alone
        assert pushed_back == [0, 0]


@pytest.mark.parametrize("advantage", [0.0, 1.0])
def test_a_ratio_beyond_all_bounds_is_clipped_and_not_nan(advantage):
    assert surrogate_gradient("ppo", 5000.0, advantage) == (0.0, 1.0)


def test_advantages_follow_ddpos_rule():
    generator = np.random.default_rng(0)
    size, minimum = 6, 4
    ours, theirs = PromptStatistics(size, minimum), defaultdict(lambda: deque(maxlen=size))
    used_both = set()
    for _ in range(12):
        prompts = generator.choice(["a", "b", "c", "rare"], 8, p=[0.4, 0.3, 0.25, 0.05])
        rewards = generator.normal(3, 2, 8)
        ours.add(list(zip(prompts.tolist(), rewards.tolist(), strict=True)))
        for prompt in np.unique(prompts):
            theirs[prompt].extend(rewards[prompts == prompt])
            known = theirs[prompt] if len(theirs[prompt]) >= minimum else rewards
            used_both.add(known is rewards)
            expected = (rewards[prompts == prompt] - np.mean(known)) / (np.std(known) + 1e-6)
            found = [ours.normalise(prompt, r) for r in rewards[prompts == prompt].tolist()]
            assert found == pytest.approx(expected.tolist())
    assert used_both == {True, False}


def test_without_a_buffer_the_iteration_normalises_and_advantages_are_clipped():
    policy = toy.ToyPolicy()
    batches = [toy.batch(policy, 64, torch.Generator().manual_seed(i)) for i in (0, 1)]
    ppo = algorithm("ppo", prompt_buffer=0, prompt_buffer_minimum=1, advantage_clip=1.5)
    samples = [ppo.sample(policy, toy.Closeness(), batch) for batch in batches]
    rewards = torch.cat([sample.reward for sample in samples])
    expected = (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-6)
    assert expected.abs().max() > 1.5
    for found, part in zip(
        ppo.advantages(samples, toy.Gradients(policy))[0], expected.split(64), strict=True
    ):
        assert torch.allclose(found, part.clamp(-1.5, 1.5)[:, None].expand(64, 3))


def test_batches_of_one_are_normalised_by_their_prompts_other_images():
    policy = toy.ToyPolicy()
    batches = [toy.batch(policy, 1, torch.Generator().manual_seed(i)) for i in range(6)]
    batches = [replace(b, prompts=["ab"[i // 3]]) for i, b in enumerate(batches)]
    ppo = algorithm("ppo", prompt_buffer_minimum=3)
    samples = [ppo.sample(policy, toy.Closeness(), batch) for batch in batches]
    found, _ = ppo.advantages(samples, toy.Gradients(policy))
    rewards = torch.cat([sample.reward for sample in samples]).view(2, 3)
    mean, std = rewards.mean(1, keepdim=True), rewards.std(1, correction=0, keepdim=True)
    expected = ((rewards - mean) / (std + 1e-6)).flatten()
    assert torch.allclose(torch.stack([advantage[0, 0] for advantage in found]), expected)


def test_an_iteration_is_dealt_to_updates_and_repeated():
    policy = toy.ToyPolicy()
    batches = [toy.batch(policy, 8, torch.Generator().manual_seed(i)) for i in range(4)]
    whole, dealt = toy.Gradients(policy), toy.Gradients(policy)
    for optimiser, changes in (
        (whole, {}),
        (dealt, {"updates_per_iteration": 2, "inner_epochs": 3}),
    ):
        ppo = algorithm("ppo", ratio_clip=0.5, **changes)
        seen = ppo.update(policy, toy.Closeness(), batches, optimiser)
        assert len(seen) == 4
    assert len(whole.steps) == 1 and len(dealt.steps) == 6
    assert torch.allclose((dealt.steps[0] + dealt.steps[1]) / 2, whole.steps[0])
    assert torch.equal(dealt.steps[0], dealt.steps[4])


# DPOK


def off_the_reference(steps=3):
    policy = toy.ToyPolicy(steps)
    with torch.no_grad():
        policy.network.gain.copy_(torch.linspace(0.9, 0.5, steps))
        policy.network.shift.copy_(torch.linspace(-0.1, 0.4, steps))
    return policy


def test_dpoks_divergence_is_the_closed_form_kl():
    policy, kept = off_the_reference(), toy.Gradients(toy.ToyPolicy())
    batch = toy.batch(policy, 16, torch.Generator().manual_seed(0))
    kept.parameters = list(policy.network.parameters())
    gradients = []
    for beta in (0.0, 0.7):
        torch.manual_seed(0)
        dpok = algorithm("dpok", divergence="kl", beta=beta)
        (seen,) = dpok.update(policy, toy.Closeness(), [batch], kept)
        gradients.append(kept.steps[-1])
    total = torch.zeros(16, dtype=torch.double)
    for index, step in enumerate(policy.rollout(batch.embeddings, batch.noise).transitions):
        state = step.state.detach()
        own = Normal(policy.mean(index, state, batch.embeddings), step.std)
        total = total + kl_divergence(own, Normal(toy.GAIN * state, step.std)).flatten()
    assert total.min() > 0.01 and torch.allclose(seen.divergence, total)
    expected = torch.autograd.grad(0.7 * total.mean() / 3, kept.parameters)
    assert torch.allclose(gradients[1] - gradients[0], torch.cat(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_epsilon_is_the_squared_difference_of_the_guided_noise(models, kind):
    """As DPOK's release computes it, from the network's outputs."""
    policy = load(models, kind, steps=5)
    batch, beta = batch_for(policy), 0.3
    kept = {}
    for weight in (0.0, beta):
        gradients = toy.Gradients(policy)
        dpok = algorithm("dpok", divergence="epsilon", beta=weight, reduction="mean")
        (seen,) = dpok.update(policy, tiny.Brightness(), [batch], gradients)
        kept[weight] = gradients.steps[0]
    total = torch.zeros(4)
    with torch.no_grad():
        trajectory = policy.rollout(batch.embeddings, batch.noise)
    for index, step in enumerate(trajectory.transitions):
        timestep = policy.timesteps[index]
        guided = policy.denoiser.predict(step.state, timestep, batch.embeddings)
        with torch.no_grad(), policy.reference():
            base = policy.denoiser.predict(step.state, timestep, batch.embeddings)
        total = total + (guided - base).square().mean((1, 2, 3))
    assert total.min() > 1e-4 and torch.allclose(seen.divergence, total, rtol=1e-4)
    parameters = [p for p in policy.network.parameters() if p.requires_grad]
    expected = torch.autograd.grad(beta * total.mean() / len(policy.stds), parameters)
    expected = torch.cat([gradient.flatten() for gradient in expected])
    found = kept[beta] - kept[0.0]
    assert torch.allclose(found, expected, atol=1e-3 * float(expected.abs().max()))
    direct = algorithm("direct", divergence="epsilon", beta=beta, reduction="mean")
    _, ours = direct.loss(policy, tiny.Brightness(), batch)
    assert torch.allclose(ours.divergence, total, rtol=1e-4)


def test_epsilon_takes_the_released_last_step_at_its_own_noise_level(models):
    policy = load(models, "consistency")
    batch = batch_for(policy)
    ppo = algorithm("ppo", divergence="epsilon", reduction="mean", horizon="released")
    (seen,) = ppo.update(policy, tiny.Brightness(), [batch], toy.Gradients(policy))
    with torch.no_grad():
        states = [step.state for step in policy.rollout(batch.embeddings, batch.noise).transitions]
        states.append(policy.rollout(batch.embeddings, batch.noise).transitions[-1].next_state)
        total = torch.zeros(4)
        for timestep, state in zip(policy.timesteps, states, strict=True):
            ours = policy.denoiser.predict(state, timestep, batch.embeddings)
            with policy.reference():
                base = policy.denoiser.predict(state, timestep, batch.embeddings)
            total += (ours - base).square().mean((1, 2, 3))
    assert torch.allclose(seen.divergence, total, rtol=1e-4)


def test_epsilon_is_refused_where_no_noise_is_predicted():
    gradients, policy = toy.Gradients(toy.ToyPolicy()), toy.ToyPolicy()
    batch = toy.batch(policy, 4, torch.Generator().manual_seed(0))
    learner = algorithm("dpok", divergence="epsilon", beta=0.1)
    with pytest.raises(UserError, match="epsilon is about predicted noise.*such as kl"):
        learner.update(policy, toy.Closeness(), [batch], gradients)


def test_dpoks_advantages_are_rewards_less_values_and_the_values_learn():
    policy = toy.ToyPolicy()
    batches = [toy.batch(policy, 64, torch.Generator().manual_seed(i)) for i in (0, 1)]
    dpok = algorithm("dpok", value_learning_rate=3e-3, value_updates=10)
    samples = [dpok.sample(policy, toy.Closeness(), batch) for batch in batches]
    rewards = torch.cat([s.reward for s in samples])
    first, _ = dpok.advantages(samples, toy.Gradients(policy))
    spread = rewards.std(correction=0)
    standard = ((rewards - rewards.mean()) / spread)[:, None]
    assert torch.allclose(torch.cat(first), standard.expand(-1, 3))
    losses = []
    for _ in range(12):
        known = copy.deepcopy(dpok.value)  # not yet fitted to what it is to judge
        advantages, diagnostics = dpok.advantages(samples, toy.Gradients(policy))
        losses.append(float(diagnostics["value_loss"]))
    with torch.no_grad():
        for sample, advantage in zip(samples, advantages, strict=True):
            states = torch.stack([t.state for t in sample.transitions], 1).flatten(2).float()
            step = torch.eye(3).expand(64, 3, 3)
            values = known.layers(torch.cat([states, torch.zeros(64, 3, 1), step], 2))[..., 0]
            standard = (sample.reward - rewards.mean())[:, None] / spread
            assert torch.allclose(advantage, standard - values, atol=1e-5)
    # V of x_1 can tell all but the last step's noise: it must beat the best constant.
    constant = float(rewards.var(correction=0))
    assert losses[0] > losses[3] > losses[-1] and losses[-1] < 0.8 * constant


def test_dpoks_advantages_and_values_are_alike_at_every_scale_of_the_reward():
    seen = []
    for scale, offset in ((1.0, 0.0), (0.02, 0.28)):
        policy = toy.ToyPolicy()
        batch = toy.batch(policy, 64, torch.Generator().manual_seed(0))
        dpok = algorithm("dpok", value_learning_rate=3e-3, value_updates=10)
        torch.manual_seed(0)
        sample = dpok.sample(policy, toy.Closeness(), batch)
        sample = dataclasses.replace(sample, reward=scale * sample.reward + offset)
        for _ in range(5):
            (advantage,), _ = dpok.advantages([sample], toy.Gradients(policy))
        seen.append(advantage)
    assert seen[0].std(1).min() > 0  # V has learned something of the states
    assert torch.allclose(seen[0], seen[1], atol=0.02)


# D3PO


def test_d3pos_loss_is_the_one_derived_by_hand():
    """x = 1 and σ = 2: log ρ = (x_0 - μ_ref)²/8 - (x - μ)²/8."""
    beta = 0.3
    now = transition([1.0, 1.0, 2.0, 0.0], [0.5, 0.0, 1.0, 1.0], 2.0, [0.0, 0.0, 0.0, 0.0])
    first = (1 - 0.25) / 8  # of the pair's first image; the second's ratio is 1
    second = (4 - 1) / 8, (0 - 1) / 8
    margins = [beta * (first - 0), -beta * (second[0] - second[1])]  # the second pair's second won
    expected = sum(math.log(1 + math.exp(-margin)) for margin in margins) / 2
    preference = torch.tensor([1.0, -1.0, -1.0, 1.0]).double()
    d3po = algorithm("d3po", divergence="kl", beta=beta, ratio_clip=1.0)
    loss, beyond = d3po.loss(now, now, preference)
    assert float(loss) == pytest.approx(expected, abs=1e-12) and beyond == 0
    tied, _ = d3po.loss(now, now, preference * torch.tensor([1.0, 1.0, 0.0, 0.0]))
    one = math.log(1 + math.exp(-margins[0]))
    assert float(tied) == pytest.approx((one + math.log(2)) / 2, abs=1e-12)


def test_an_image_beyond_d3pos_clamp_and_a_tie_have_no_gradient():
    now = transition([1.0, 1.0, 1.0, 1.0], [0.5, 0.05, 0.2, -0.2], 1.0, [0.0] * 4)
    now = replace(now, mean=now.mean.requires_grad_(True))
    d3po = algorithm("d3po", divergence="kl", beta=1.0, ratio_clip=0.1)
    loss, beyond = d3po.loss(now, now, torch.tensor([1.0, -1.0, 0.0, 0.0]).double())
    (gradient,) = torch.autograd.grad(loss, now.mean)
    assert gradient.flatten().tolist()[0] == 0  # ratio e^0.375
    assert gradient[1] > 0  # the rejected image is still pushed away
    assert gradient.flatten().tolist()[2:] == [0, 0]
    assert beyond == 0.75


@pytest.mark.parametrize("kind", KINDS)
def test_d3po_starts_at_ln_2_with_pairs_from_the_same_noise(models, kind):
    policy = load(models, kind)
    for parameter in policy.network.parameters():
        if parameter.requires_grad:
            parameter.data.zero_()
    d3po, batch = algorithm("d3po", divergence="kl", beta=0.1, ratio_clip=0.1), batch_for(policy)
    first = d3po.sample(policy, tiny.Brightness(), batch).transitions[0]
    assert torch.equal(first.state[::2], first.state[1::2])
    assert torch.equal(first.state[::2], batch.noise[::2, 0])
    assert (first.next_state[::2] - first.next_state[1::2]).abs().min() > 0
    assert not torch.equal(batch.noise[0, 0], batch.noise[1, 0])  # the batch is left as it was
    (seen,) = d3po.update(policy, tiny.Brightness(), [batch], toy.Gradients(policy))
    assert float(seen.loss) == pytest.approx(math.log(2), abs=1e-6)
    assert torch.equal(seen.divergence, torch.zeros(4)) and seen.diagnostics["clipped"] == 0


# What all share


ALGORITHMS = {
    "direct": {"divergence": "none"},
    "ppo": {
        "divergence": "none",
        "ratio_clip": 0.2,
        "updates_per_iteration": 2,
        "prompt_buffer": 0,
    },
    "dpok": {"divergence": "kl", "beta": 0.01, "ratio_clip": 0.2, "value_updates": 2},
    "d3po": {"divergence": "kl", "beta": 1.0, "ratio_clip": 1e6},
    "grpo": {"ratio_clip": 0.2, "updates_per_iteration": 2},
    "rebel": {"inner_epochs": 2, "updates_per_iteration": 2},
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_finds_the_optimum_of_a_toy_chain(name):
    policy, reward = toy.ToyPolicy(), toy.Closeness()
    settings = tiny.settings(algorithm=name, **ALGORITHMS[name], learning_rate=0.05)
    parameters = list(policy.network.parameters())
    optimiser = AdapterOptimiser(parameters, settings, SimpleNamespace(num_processes=1))
    learner, generator = load_algorithm(settings), torch.Generator().manual_seed(0)
    means = []
    for _ in range(100):
        batches = [toy.batch(policy, 64, generator) for _ in range(2)]
        seen = learner.update(policy, reward, batches, optimiser)
        means.append(float(torch.cat([s.reward for s in seen]).mean()))
    start, end = means[0], float(np.mean(means[-10:]))
    assert start < -1.4 and toy.BEST - 0.15 < end < toy.BEST + 0.05


@pytest.mark.parametrize("divergence", ["none", "kl"])
def test_the_estimated_policy_gradient_is_the_exact_one_and_noisier(divergence):
    """Of the same objective on the same noise: E[R] - β Σ D with the states held fixed in D."""
    policy, size, count, beta = off_the_reference(), 256, 400, 0.3
    changes = {"divergence": divergence, "beta": beta if divergence != "none" else 0.0}
    direct = algorithm("direct", **changes, reference_gradient="stop")
    ppo = algorithm("ppo", **changes, prompt_buffer=0, advantage_clip=1e6)
    # So that PPO's advantage is R itself, less a baseline that does not depend on the image.
    ppo.statistics.normalise = lambda prompt, reward: reward + 1.0
    generator, steps = torch.Generator().manual_seed(1), len(policy.stds)
    ours, theirs = toy.Gradients(policy), toy.Gradients(policy)
    for _ in range(count):
        batch = toy.batch(policy, size, generator)
        ppo.update(policy, toy.Closeness(), [batch], ours)
        direct.update(policy, toy.Closeness(), [batch], theirs)
    estimated, exact = torch.stack(ours.steps) * steps, torch.stack(theirs.steps)
    difference = estimated - exact
    standard_error = difference.std(0) / math.sqrt(count)
    deviations = difference.mean(0) / standard_error
    assert deviations.abs().max() < 3, deviations
    assert (standard_error < 0.1 * exact.mean(0).abs().max()).all()
    spread = float(estimated.var(0).sum()) * size, float(exact.var(0).sum()) * size
    print("variance of one image's gradient, policy gradient's and exact:", *spread)
    assert spread[0] > 2 * spread[1]


@pytest.mark.parametrize("kind", KINDS)
def test_passes_are_counted_in_the_same_way_for_all(models, kind):
    policy = load(models, kind)
    sizes = []
    policy.network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    drawn, passes = (2, 1) if kind == "consistency" else (3, 2)
    expected = {
        ("direct", "none"): 3,
        ("direct", "kl"): 3 + drawn,
        ("ppo", "none"): 3 + 2 * drawn,  # two inner epochs
        ("dpok", "kl"): 3 + 2 * drawn * 2,
        ("d3po", "kl"): 3 + 2 * drawn * 2,
    }
    batch = batch_for(policy)
    for (name, divergence), evaluations in expected.items():
        before, sizes[:] = policy.nfe, []
        changes = {"beta": 0.1} if divergence == "kl" else {}
        epochs = {} if name == "direct" else {"inner_epochs": 2}
        learner = algorithm(name, divergence=divergence, **changes, **epochs)
        learner.update(policy, tiny.Brightness(), [batch], toy.Gradients(policy))
        assert policy.nfe - before == sum(sizes) == 4 * passes * evaluations, name


def test_learning_keeps_the_activations_of_one_step_at_a_time(models):
    def kept(steps):
        policy, peak = load(models, "diffusion", steps), [0]
        batch, held = batch_for(policy), toy.Gradients(policy)
        alive = [0]

        def note(tensor):
            alive[0] += tensor.numel()
            peak[0] = max(peak[0], alive[0])
            return tensor

        held.backward = lambda loss: (loss.backward(), alive.__setitem__(0, 0))
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            algorithm("ppo").update(policy, tiny.Brightness(), [batch], held)
        return peak[0]

    assert kept(6) == kept(2)


@pytest.mark.parametrize("name", ["ppo", "dpok", "d3po"])
def test_a_chain_that_never_draws_is_refused(models, name):
    policy = load(models, "consistency", steps=1)
    batch, gradients = batch_for(policy), toy.Gradients(policy)
    learner = algorithm(name, divergence="kl" if name == "d3po" else "none")
    with pytest.raises(UserError, match=f"{name} learns from the steps that draw.*inference_steps"):
        learner.update(policy, tiny.Brightness(), [batch], gradients)
    if name == "ppo":
        released = algorithm("ppo", horizon="released")
        released.update(policy, tiny.Brightness(), [batch], gradients)
        assert gradients.steps[0].abs().max() > 0


def test_the_policy_gradient_algorithms_need_no_gradient_of_the_reward(models):
    policy = load(models, "consistency")
    batch = batch_for(policy)

    class Size(tiny.Brightness):
        differentiable = False

        def score(self, images, prompts):
            assert not images.requires_grad
            return (super().score(images, prompts) * 1000).round()

    for name in ("ppo", "dpok", "d3po"):
        gradients, changes = toy.Gradients(policy), {}
        if name == "d3po":
            changes = {"divergence": "kl", "beta": 0.1, "reduction": "mean", "ratio_clip": 1.0}
        algorithm(name, **changes).update(policy, Size(), [batch], gradients)
        assert gradients.steps[0].isfinite().all() and gradients.steps[0].abs().max() > 0


def test_an_infinite_divergence_without_weight_is_observed_only():
    policy = off_the_reference()
    with torch.no_grad():
        policy.network.shift += 100
    gradients = toy.Gradients(policy)
    batch = toy.batch(policy, 4, torch.Generator().manual_seed(0))
    (seen,) = algorithm("ppo", divergence="chi2").update(
        policy, toy.Closeness(), [batch], gradients
    )
    assert seen.divergence.isinf().all() and gradients.steps[0].isfinite().all()
