"""GRPO, REBEL, the hybrid and truncated backpropagation on a chain whose first update, and whose
optimum, are known by hand; and against loops written from the papers' equations."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
import toy
from torch.distributions import Normal

from rocm_core.algorithms import Batch, load_algorithm
from rocm_core.errors import UserError
from rocm_core.policies import add_adapter, lora_parameters
from rocm_core.training import AdapterOptimiser

STEPS = 2
KINDS = ("consistency", "diffusion")
TEXTS = ["cat", "cat", "dog", "dog"]


def algorithm(name, **changes):
    return load_algorithm(tiny.settings(algorithm=name, **changes))


def batch(policy, size=8, seed=0, prompts="ab"):
    """`size` images, one half for each prompt."""
    found = toy.batch(policy, size, torch.Generator().manual_seed(seed))
    return replace(found, prompts=[prompts[i * len(prompts) // size] for i in range(size)])


def first_update(name, policy, given, **changes):
    gradients = toy.Gradients(policy)
    (seen,) = algorithm(name, **changes).update(policy, toy.Closeness(), [given], gradients)
    return gradients.steps, seen


class Chain:
    """What the toy chain does with a batch, in plain numbers: x_2 = z_0, x_1 = g x_2 + s + σ z_1,
    x_0 = g x_1 + s + σ z_2, where the last σ is 0 on a chain with a deterministic last step."""

    def __init__(self, policy, given):
        gain, shift = (p.detach().numpy() for p in policy.network.parameters())
        z = given.noise.flatten(1).numpy()
        self.noise, self.states = z[:, 1:], [z[:, 0]]
        for k in range(len(gain)):
            drawn = toy.STD * z[:, k + 1] if k + 1 < z.shape[1] else 0.0
            self.states.append(gain[k] * self.states[k] + shift[k] + drawn)
        self.gain, self.final = gain, self.states[-1]
        self.reward = -((self.final - toy.TARGET) ** 2)
        self.slope = -2 * (self.final - toy.TARGET)

    def score(self, weights):
        """mean_i weights_i ∇ Σ_k log p(x_{k-1}|x_k), by gains and then by shifts: the derivative of
        -(x - g x_k - s)²/2σ² is z/σ times x_k, or 1."""
        pull = [weights * noise / toy.STD for noise in self.noise.T]
        pull += [np.zeros_like(weights)] * (STEPS - len(pull))
        by_gain = [np.mean(p * x) for p, x in zip(pull, self.states, strict=False)]
        return np.array([*by_gain, *(np.mean(p) for p in pull)])


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


def load(folder, kind, steps=3, dtype=torch.float32):
    model = str(tiny.write_pipeline(folder, policy=kind))
    policy = tiny.load_policy(kind, model, steps, 3.0, dtype)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    for parameter in lora_parameters(policy.network).values():
        parameter.data = parameter.data.to(dtype)
    tiny.perturb(policy.network, 0.1)
    return policy


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


@pytest.fixture
def grid_cells():
    import yaml

    from rocm_core.grid import make_grid, parse_config
    from rocm_core.plugins import ROOT

    values = yaml.safe_load((ROOT / "config/shapes.yaml").read_text())
    for key in ("cells", "sweeps", "study", "gradients"):
        del values[key]

    def values_of(methods, **changes):
        return values | {"rewards": ["hpsv2"], "seeds": [0], "methods": methods} | changes

    def cells(methods, **changes):
        return make_grid(parse_config(values_of(methods, **changes)))

    cells.values = values_of
    return cells


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


# Truncated backpropagation


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
    from rocm_core.grid import parse_config, training_work

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
