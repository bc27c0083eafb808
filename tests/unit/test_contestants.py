"""GRPO, REBEL and the hybrid on a chain whose first update, and whose optimum, are known by hand;
and against loops written from the papers' equations."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
import toy
from torch.distributions import Normal
from updates import STEPS, Chain, algorithm, batch, first_update, load

from rocm_core.algorithms import Batch
from rocm_core.errors import UserError
from rocm_core.training import AdapterOptimiser

KINDS = ("consistency", "diffusion")
TEXTS = ["cat", "cat", "dog", "dog"]


def relative(rewards, spread=True):
    """Rewards of two prompts' images, against their prompt's."""
    halves = np.split(rewards, 2)
    return np.concatenate([(h - h.mean()) / (h.std() + 1e-6 if spread else 1) for h in halves])


def test_grpos_first_update_is_the_one_derived_by_hand():
    policy = toy.ToyPolicy(STEPS)
    given = batch(policy)
    (gradient,), _ = first_update("grpo", policy, given)
    chain = Chain(policy, given)
    assert gradient.tolist() == pytest.approx(-chain.score(relative(chain.reward)) / STEPS)


@pytest.mark.parametrize("kind", KINDS)
def test_grpos_first_update_is_ppos_where_the_group_is_the_prompts_buffer(kind, tmp_path):
    policy = load(tmp_path, kind)
    noise = policy.noise(0, [str(i) for i in range(4)], "test")
    given = Batch(TEXTS, policy.encode_prompts(TEXTS), noise)
    found = []
    for name, changes in (("grpo", {}), ("ppo", {"prompt_buffer": 2, "prompt_buffer_minimum": 2})):
        gradients = toy.Gradients(policy)
        changes |= {"divergence": "kl", "beta": 0.1, "reduction": "mean"}
        algorithm(name, **changes).update(policy, tiny.Brightness(), [given], gradients)
        found.append(gradients.steps[0])
    assert torch.equal(*found) and found[0].abs().max() > 0


@pytest.mark.parametrize("name", ["grpo", "hybrid"])
def test_a_clipped_policy_gradient_is_a_plain_loop_over_its_objective(name):
    """Two epochs of two updates: min(ρ A, clip(ρ, 1 ± ε) A) - β KL, averaged over images and steps
    that draw. The hybrid adds the reward of a last step that draws none, from the state that was
    sampled before it, with the weights of the time."""
    hybrid = name == "hybrid"
    policy, plain = (toy.ToyPolicy(STEPS + hybrid, deterministic=hybrid) for _ in range(2))
    settings = {"ratio_clip": 0.1, "inner_epochs": 2, "updates_per_iteration": 2}
    regularised = {"divergence": "kl", "beta": 0.3, "learning_rate": 0.05}
    learner = algorithm(name, **settings, **regularised)
    batches = [batch(policy, 8, seed, "ab") for seed in (0, 1)]
    optimiser = optimiser_of(policy, learner.settings)
    learner.update(policy, toy.Closeness(), batches, optimiser)

    gain, shift = plain.network.parameters()
    adam = torch.optim.AdamW([gain, shift], lr=0.05, weight_decay=0)
    chains = [Chain(plain, given) for given in batches]
    halves = zip(*(np.split(chain.reward, 2) for chain in chains), strict=True)
    every = dict(zip("ab", map(np.concatenate, halves), strict=True))
    old = [gain.detach().clone(), shift.detach().clone()]
    clipped = 0
    for _ in range(2):
        for chain, given in zip(chains, batches, strict=True):
            total = torch.zeros((), dtype=torch.double)
            for i, prompt in enumerate(given.prompts):
                group, own = every[prompt], chain.reward[i]
                advantage = float((own - group.mean()) / (group.std() + 1e-6))
                if hybrid:
                    advantage = float(own - (group.sum() - own) / (len(group) - 1))
                    end = gain[STEPS] * chain.states[STEPS][i] + shift[STEPS]
                    total = total - (end - toy.TARGET).square()
                for k in range(STEPS):
                    x, y = (torch.tensor(chain.states[j][i]) for j in (k, k + 1))
                    now = Normal(gain[k] * x + shift[k], toy.STD).log_prob(y)
                    was = Normal(old[0][k] * x + old[1][k], toy.STD).log_prob(y)
                    ratio = (now - was).exp()
                    kept = ratio.clamp(0.9, 1.1)
                    clipped += bool(kept * advantage < ratio * advantage)
                    kl = (gain[k] * x + shift[k] - toy.GAIN * x).square() / (2 * toy.STD**2)
                    total = total + torch.min(ratio * advantage, kept * advantage) - 0.3 * kl
            adam.zero_grad()
            (-total / (len(given.prompts) * STEPS)).backward()
            torch.nn.utils.clip_grad_norm_([gain, shift], 1.0)
            adam.step()
    assert clipped > 5
    for ours, theirs in zip(policy.network.parameters(), (gain, shift), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10) and not torch.equal(ours, old[0])


def optimiser_of(policy, settings):
    parameters = [p for p in policy.network.parameters() if p.requires_grad]
    return AdapterOptimiser(parameters, settings, SimpleNamespace(num_processes=1))


# REBEL


def paired(given, start="shared"):
    noise = given.noise.clone()
    if start == "shared":
        noise[1::2, 0] = noise[::2, 0]
    return replace(given, noise=noise)


@pytest.mark.parametrize("start", ["shared", "independent"])
@pytest.mark.parametrize("normalised", [True, False])
def test_rebels_first_update_is_the_one_derived_by_hand(normalised, start):
    """Every log ρ is 0, so the residual of a pair is minus its difference of rewards."""
    policy, eta = toy.ToyPolicy(STEPS), 0.7
    given = batch(policy)
    changes = {"eta": eta, "normalise_rewards": normalised, "pair_start": start}
    changes |= {"prompt_buffer": 4, "prompt_buffer_minimum": 4} if normalised else {}
    (gradient,), seen = first_update("rebel", policy, given, **changes)
    chain = Chain(policy, paired(given, start))
    rewards = relative(chain.reward) if normalised else chain.reward
    residual = -(rewards[::2] - rewards[1::2])
    weights = np.stack([residual, -residual], 1).ravel() * 2 / eta
    expected = chain.score(weights) * 2 / STEPS  # a mean over pairs is twice one over images
    assert gradient.tolist() == pytest.approx(expected)
    assert float(seen.loss) == pytest.approx(np.mean(residual**2) / STEPS)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_rebel_is_a_plain_loop_over_the_papers_objective(reduction, tmp_path):
    """On several latent dimensions, with weights that have left those that sampled."""
    policy = load(tmp_path, "consistency", dtype=torch.float64)
    noise = policy.noise(0, [str(i) for i in range(4)], "test")
    given = Batch(TEXTS, policy.encode_prompts(TEXTS), noise)
    changes = {"eta": 2.0, "normalise_rewards": False, "inner_epochs": 2, "reduction": reduction}
    learner, gradients = algorithm("rebel", **changes), toy.Gradients(policy)
    with torch.no_grad():
        trajectory = policy.rollout(given.embeddings, paired(given).noise)
        reward = tiny.Brightness().score(policy.decode(trajectory.latents), TEXTS)

    def move():
        tiny.perturb(policy.network, 0.05, seed=3)
        gradients.step = lambda: toy.Gradients.step(gradients)

    gradients.step = lambda: (toy.Gradients.step(gradients), move())
    seen = learner.update(policy, tiny.Brightness(), [given], gradients)
    total, steps = 0.0, len(trajectory.transitions)
    for a, b in ((0, 1), (2, 3)):
        log_ratio = []
        for image in (a, b):
            terms = []
            for k, past in enumerate(trajectory.transitions):
                one = slice(image, image + 1)
                own = {name: part[one] for name, part in given.embeddings.items()}
                mean = policy.mean(k, past.state[one], own)
                now = Normal(mean, past.std).log_prob(past.next_state[one])
                was = Normal(past.mean[one], past.std).log_prob(past.next_state[one])
                terms.append((now - was).sum() if reduction == "sum" else (now - was).mean())
            log_ratio.append(sum(terms))
        total = total + ((log_ratio[0] - log_ratio[1]) / 2.0 - (reward[a] - reward[b])) ** 2 / 2
    expected = torch.autograd.grad(total / steps, gradients.parameters)
    expected = torch.cat([gradient.flatten() for gradient in expected])
    assert torch.allclose(gradients.steps[1], expected, rtol=1e-6, atol=1e-9)
    assert (gradients.steps[0] - expected).abs().max() > 1e-3 * expected.abs().max()
    assert float(seen[0].loss) == pytest.approx(float(total.detach()) / steps)


class Linear(toy.Closeness):
    """r(x_0) = slope · x_0."""

    slope = 0.6

    def score(self, images, prompts):
        return self.slope * images.flatten()


def test_rebels_minimiser_is_the_sampling_policy_tilted_by_the_reward():
    """p_old(x) exp(η r(x))/Z of a linear reward. With x_0 = g² x_2 + g s_1 + s_2 + σ (g z_1 + z_2),
    the tilt moves the mean of every draw by η σ² times the reward's slope in it: that of x_1 is the
    last gain. So shifts rise by η σ² slope g, and η σ² slope, and gains stay."""
    policy, eta = toy.ToyPolicy(STEPS), 0.5
    changes = {"eta": eta, "normalise_rewards": False, "inner_epochs": 400}
    learner = algorithm("rebel", **changes, learning_rate=0.01, gradient_clip=None)
    given = toy.batch(policy, 64, torch.Generator().manual_seed(0))  # of the frozen policy
    optimiser = optimiser_of(policy, learner.settings)
    (seen,) = learner.update(policy, Linear(), [given], optimiser)
    step = eta * Linear.slope * toy.STD**2
    assert policy.network.gain.tolist() == pytest.approx([toy.GAIN] * 2, abs=1e-3)
    assert policy.network.shift.tolist() == pytest.approx([step * toy.GAIN, step], abs=1e-3)
    assert float(seen.loss) < 1e-6


# Hybrid


def test_the_hybrids_first_update_is_the_one_derived_by_hand():
    policy = toy.ToyPolicy(STEPS, deterministic=True)
    given = batch(policy)
    (gradient,), seen = first_update("hybrid", policy, given)
    chain = Chain(policy, given)
    score = chain.score(relative(chain.reward, spread=False) * 4 / 3)  # others' mean: 4 of a prompt
    by_last = np.array([0, np.mean(chain.slope * chain.states[1]), 0, np.mean(chain.slope)])
    assert gradient.tolist() == pytest.approx(-(score + by_last))  # one step draws
    assert seen.reward.tolist() == pytest.approx(chain.reward)


@pytest.mark.parametrize("divergence", ["none", "kl"])
def test_the_hybrids_expected_gradient_is_the_exact_one(divergence):
    policy, beta = toy.ToyPolicy(STEPS, deterministic=True), 0.3
    with torch.no_grad():
        policy.network.shift.copy_(torch.tensor([0.2, -0.1]))
    changes = {"divergence": divergence, "beta": beta if divergence != "none" else 0.0}
    generator = torch.Generator().manual_seed(2)
    ours, exact = toy.Gradients(policy), toy.Gradients(policy)
    hybrid = algorithm("hybrid", **changes)
    direct = algorithm("direct", **changes, reference_gradient="stop")
    for _ in range(300):
        given = toy.batch(policy, 256, generator)
        hybrid.update(policy, toy.Closeness(), [given], ours)
        direct.update(policy, toy.Closeness(), [given], exact)
    difference = torch.stack(ours.steps) - torch.stack(exact.steps)
    error = difference.std(0) / math.sqrt(len(difference))
    assert (difference.mean(0) / error.clamp(min=1e-9)).abs().max() < 3
    assert difference[:, [1, 3]].abs().max() < 1e-12  # the last step's is exact
    assert error.max() < 0.05 * exact.steps[0].abs().max()


def test_the_hybrid_finds_an_optimum_that_a_policy_gradient_cannot_reach():
    """Without noise in the last step, x_1 = 0 + σ z and a gain of 0 give the target exactly."""
    ends = {}
    for name in ("hybrid", "grpo"):
        policy, generator = toy.ToyPolicy(STEPS, deterministic=True), torch.Generator()
        learner = algorithm(name, ratio_clip=0.2, learning_rate=0.05)
        optimiser = optimiser_of(policy, learner.settings)
        generator.manual_seed(0)
        for _ in range(150):
            given = toy.batch(policy, 64, generator)
            (seen,) = learner.update(policy, toy.Closeness(), [given], optimiser)
        ends[name] = float(seen.reward.mean())
    assert ends["hybrid"] > -0.01
    # A gain of 0.8 stays, and with it the noise of x_1.
    assert ends["grpo"] < -((0.8 * toy.STD) ** 2) / 2


@pytest.mark.parametrize("name", ["hybrid", "grpo", "rebel"])
def test_images_of_one_prompt_are_compared(name, grid_cells):
    with pytest.raises(UserError, match=f"methods.{name}-consistency.images_per_prompt must be"):
        grid_cells({f"{name}-consistency": {"batch_size": 2, "images_per_prompt": 1}})
    method = {f"{name}-consistency-kl": {"beta": 0.1, "batch_size": 2, "images_per_prompt": 2}}
    (cell,) = grid_cells(method)
    assert cell.method == f"{name}-consistency-kl"


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("rocm-none", {"truncate": 5}, "truncate must be at most inference_steps, 4"),
        ("rocm-none", {"truncate": [3, 2]}, "the fewest steps first, but it is"),
        ("rocm-none", {"truncate": [1, 9]}, "at most inference_steps, 4"),
        ("rocm-none", {"truncate": 0}, "a whole number from 1"),
        ("rocm-none", {"truncate": [1]}, "a list of two numbers of steps"),
        ("rocm-none", {"truncate": "first"}, "or last or null"),
        ("rocm-none", {"low_variance": 2}, "set truncate to last"),
        ("rocm-none", {"low_variance": 2, "truncate": 2}, "set truncate to last"),
        ("rocm-kl", {"beta": 0.1, "truncate": "last"}, "leaves the divergence kl no gradient"),
        ("rocm-kl", {"beta": 0.1, "truncate": 1}, "leaves the divergence kl no gradient"),
        ("rlcm", {"truncate": 1}, "truncate has no effect on ppo"),
        ("rebel-consistency", {"batch_size": 3, "images_per_prompt": 2}, "batch_size must be even"),
        ("rebel-consistency", {"ratio_clip": 0.1}, "ratio_clip has no effect on rebel"),
        ("grpo-diffusion", {"images_per_prompt": 2, "eta": 1.0}, "eta has no effect on grpo"),
        ("hybrid-consistency", {"images_per_prompt": 2, "horizon": "released"}, "no effect on hy"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(grid_cells, method, settings, said):
    with pytest.raises(UserError, match=said) as error:
        grid_cells({method: settings})
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("direct-diffusion", {"truncate": "last"}, "the chain ddim has none: set truncate to 1"),
        ("hybrid-diffusion", {"images_per_prompt": 2}, "the chain ddim has none: use grpo"),
    ],
)
def test_a_last_step_that_draws_noise_is_no_last_step(grid_cells, method, settings, said, tmp_path):
    from rocm_core.grid import make_grid

    policies = {"diffusion": {"model": str(tmp_path), "steps": 5, "guidance_scale": 1.0}}
    grid_cells({method: settings}, policies=policies)  # to be fetched yet
    file = tmp_path / "scheduler/scheduler_config.json"
    file.parent.mkdir()
    for content, refused in (
        ('{"set_alpha_to_one": true}', False),
        ('{"set_alpha_to_one": false}', True),
    ):
        file.write_text(content)
        make_grid.cache_clear()
        if refused:
            with pytest.raises(UserError, match=said):
                grid_cells({method: settings}, policies=policies)
        else:
            grid_cells({method: settings}, policies=policies)


def test_a_reward_without_gradient_is_refused_for_the_hybrid(grid_cells):
    method = {"hybrid-consistency": {"images_per_prompt": 2}}
    scorers = {"jpeg-compressibility": None, "hpsv2": "resources/shapes/scorers/hpsv2"}
    with pytest.raises(UserError, match="cannot train on jpeg.compressibility"):
        grid_cells(method, rewards=["jpeg-compressibility"], scorers=scorers)
