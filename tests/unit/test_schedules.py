"""Chains against diffusers' schedulers: mean and standard deviation of each step, in float64."""

import math

import diffusers
import numpy as np
import pytest
import torch

from rocm_core.errors import UserError
from rocm_core.grid.models import default_chain
from rocm_core.plugins import facts, load, names
from rocm_core.policies.chains import Schedule

STEPS = (1, 2, 4, 8)
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KINDS = ("epsilon", "v_prediction", "sample")
# Steps divide by the smallest signal, which magnifies the single precision of the schedulers.
ROUNDED = 1e-4


def schedule(kind: str, **config):
    given = {k: config.pop(k) for k in ("gamma", "timesteps", "tokens", "sigmas") if k in config}
    scheduler = getattr(diffusers, kind)(**config)
    return scheduler, Schedule("the model", {**scheduler.config, "_class_name": kind}, **given)


def mean_of(step, state, output):
    """The mean of a step as the module says it, in double precision."""
    original = (step.original[0] * state + step.original[1] * output) / step.divisor
    return step.scale * (step.state * state + step.signal * original + step.output * output)


def drawn(monkeypatch, value: float):
    """Have a scheduler draw `value` wherever it draws noise."""
    flows = ("flow_match_lcm", "flow_match_euler_discrete")
    for name in ("lcm", "ddim", "tcd", "scm", "euler_ancestral_discrete", *flows):
        module = getattr(diffusers.schedulers, f"scheduling_{name}")
        monkeypatch.setattr(
            module, "randn_tensor", lambda shape, **_: torch.full(shape, value).double()
        )


def their_step(monkeypatch, scheduler, time, state, output, **options):
    """Mean and standard deviation of the scheduler's own step, from two draws."""
    results = []
    for value in (0.0, 1.0):
        drawn(monkeypatch, value)
        index = scheduler._step_index
        results.append(scheduler.step(output, time, state, **options, return_dict=False)[0])
        scheduler._step_index = index if value == 0 else index + 1
    return results[0], results[1] - results[0]


def check(monkeypatch, chain, scheduler, times, expected, tolerance=2e-6, **options):
    """Every step against numbers written out here, and against the scheduler's own."""
    generator = torch.Generator().manual_seed(0)
    scheduler._step_index = 0
    scheduler.is_scale_input_called = True
    for step, time, (mean, std) in zip(chain.steps, times, expected, strict=True):
        state, output = torch.randn(2, 16, generator=generator, dtype=torch.float64)
        state = state * chain.start
        ours = mean_of(step, state, output)
        torch.testing.assert_close(ours, mean(state, output), rtol=tolerance, atol=tolerance)
        assert step.std == pytest.approx(std, rel=tolerance, abs=1e-9)
        theirs, spread = their_step(monkeypatch, scheduler, time, state, output, **options)
        torch.testing.assert_close(ours, theirs.double(), rtol=1e-5, atol=1e-5)
        assert float(spread.double().mean()) == pytest.approx(step.std, abs=1e-5)


def alphas(count=1000, start=0.00085, end=0.012):
    roots = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64)
    return torch.cumprod(1 - roots**2, 0)


def both(kind, alpha, state, output):
    """x̂0 and ε̂ at noise level `alpha`."""
    a, b = math.sqrt(alpha), math.sqrt(1 - alpha)
    if kind == "epsilon":
        return (state - b * output) / a, output
    if kind == "sample":
        return output, (state - a * output) / b
    return a * state - b * output, a * output + b * state


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_lcms_steps_are_the_schedulers(monkeypatch, steps, kind):
    scheduler, given = schedule("LCMScheduler", prediction_type=kind)
    chain = load("chains", "lcm").make(given, steps)
    known, expected = alphas().tolist(), []
    times = [999 - 20 * int(i * 50 / steps) for i in range(steps)]
    for now, after in zip(times, [known[t] for t in times[1:]] + [1.0], strict=True):
        scaled = 10 * now  # with σ_data = 0.5, the scalings of the boundary
        skip, out = 0.25 / (scaled**2 + 0.25), scaled / math.sqrt(scaled**2 + 0.25)

        def mean(state, output, now=now, after=after, skip=skip, out=out):
            image, _ = both(kind, known[now], state, output)
            return math.sqrt(after) * (skip * state + out * image)

        expected.append((mean, math.sqrt(1 - after)))
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == times == [step.timestep for step in chain.steps]
    check(monkeypatch, chain, scheduler, scheduler.timesteps, expected, ROUNDED)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS[:2])
def test_ddims_steps_are_the_schedulers(monkeypatch, steps, kind):
    """Equations 12 and 16 of its paper, with η = 1, as Stable Diffusion's schedule has them."""
    stable = STABLE_DIFFUSION | {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}
    scheduler, given = schedule("DDIMScheduler", prediction_type=kind, **stable)
    chain = load("chains", "ddim").make(given, steps)
    known, gap, expected = alphas().tolist(), 1000 // steps, []
    times = [gap * i + 1 for i in reversed(range(steps))]
    for now, after in zip(times, [known[t] for t in times[1:]] + [known[0]], strict=True):
        alpha = known[now]
        variance = (1 - after) / (1 - alpha) * (1 - alpha / after)

        def mean(state, output, alpha=alpha, after=after, variance=variance):
            image, noise = both(kind, alpha, state, output)
            return math.sqrt(after) * image + math.sqrt(1 - after - variance) * noise

        expected.append((mean, math.sqrt(variance)))
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == times == [step.timestep for step in chain.steps]
    check(monkeypatch, chain, scheduler, scheduler.timesteps, expected, ROUNDED, eta=1.0)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", [None, 1.0])
def test_tcds_steps_are_the_schedulers(monkeypatch, steps, kind, gamma):
    scheduler, given = schedule("TCDScheduler", prediction_type=kind, gamma=gamma)
    chain = load("chains", "tcd").make(given, steps)
    share, known = 0.3 if gamma is None else gamma, alphas()
    times = [999 - 20 * int(i * 50 / steps) for i in range(steps)]
    expected = []
    for index, (now, after) in enumerate(zip(times, [*times[1:], 0], strict=True)):
        mid = known[int((1 - share) * after)].item()
        ratio = 1.0 if index == steps - 1 else known[after].item() / mid

        def mean(state, output, now=now, mid=mid, ratio=ratio):
            image, noise = both(kind, known[now].item(), state, output)
            return math.sqrt(ratio) * (math.sqrt(mid) * image + math.sqrt(1 - mid) * noise)

        expected.append((mean, math.sqrt(1 - ratio)))
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == times == [step.timestep for step in chain.steps]
    check(monkeypatch, chain, scheduler, scheduler.timesteps, expected, ROUNDED, eta=share)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("spacing", ["trailing", "linspace", "leading"])
def test_ancestral_steps_are_the_schedulers(monkeypatch, steps, kind, spacing):
    scheduler, given = schedule(
        "EulerAncestralDiscreteScheduler",
        **STABLE_DIFFUSION,
        prediction_type=kind,
        timestep_spacing=spacing,
        steps_offset=int(spacing == "leading"),
    )
    chain = load("chains", "ancestral").make(given, steps)
    scheduler.set_timesteps(steps)
    times = {
        "trailing": [999 - i * 1000 / steps for i in range(steps)],
        "linspace": [*np.linspace(0, 999, steps)[::-1]],
        "leading": [1000 // steps * i + 1 for i in reversed(range(steps))],
    }[spacing]
    assert scheduler.timesteps.tolist() == pytest.approx(times)
    known = alphas()
    sigmas = [*np.interp(times, range(1000), ((1 - known) / known).sqrt()), 0.0]
    expected = []
    for now, after in zip(sigmas, sigmas[1:], strict=False):
        up = math.sqrt(after**2 * (now**2 - after**2) / now**2)

        def mean(state, output, now=now, after=after, up=up):
            down = math.sqrt(after**2 - up**2)
            image = state - now * output
            if kind == "v_prediction":
                image = state / (now**2 + 1) - now / math.sqrt(now**2 + 1) * output
            return image + down * (state - image) / now

        expected.append((mean, up))
    check(monkeypatch, chain, scheduler, scheduler.timesteps, expected, ROUNDED)
    state, index = torch.ones(3), 0
    for step, time in zip(chain.steps, scheduler.timesteps, strict=True):
        scheduler._step_index = index
        scaled = scheduler.scale_model_input(state, time)
        assert torch.allclose(step.input * state, scaled) and step.timestep == time
        index += 1
    assert chain.start == pytest.approx(float(scheduler.init_noise_sigma))


FLOWS = {
    "schnell": {"shift": 1.0, "sigmas": "flux"},
    "turbo": {"shift": 3.0},
    "dev": {"shift": 3.0, "use_dynamic_shifting": True, "sigmas": "flux", "tokens": 1024},
}


def shifted(sigmas, factor):
    """As SD3's paper does it (its equation 23); FLUX.1's factor is e^µ."""
    return [factor * sigma / (1 + (factor - 1) * sigma) for sigma in sigmas]


def levels(steps, shift):
    """Down to the smallest of 1000 equal levels, which diffusers has already shifted, and 0."""
    return [*shifted(np.linspace(1, *shifted([0.001], shift), steps), shift), 0.0]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", ["FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler"])
@pytest.mark.parametrize("name", FLOWS)
def test_flows_steps_are_the_schedulers(monkeypatch, steps, kind, name):
    config = dict(FLOWS[name])
    asked, sigmas = {}, levels(steps, config["shift"])
    if config.get("sigmas"):
        config["sigmas"] = asked["sigmas"] = tuple(1 - i / steps for i in range(steps))
        sigmas = [*shifted(asked["sigmas"], config["shift"]), 0.0]
    if config.get("use_dynamic_shifting"):
        asked["mu"] = 0.5 + (1.15 - 0.5) * (1024 - 256) / (4096 - 256)
        sigmas = [*shifted(asked["sigmas"], math.exp(asked["mu"])), 0.0]
    if kind == "FlowMatchEulerDiscreteScheduler":
        config["stochastic_sampling"] = True
    scheduler, given = schedule(kind, **config)
    scheduler.set_timesteps(steps, **asked)
    expected = [
        (lambda x, u, now=now, after=after: (1 - after) * (x - now * u), after)
        for now, after in zip(sigmas, sigmas[1:], strict=False)
    ]
    for chain in ("flow", *(["euler"] if "stochastic_sampling" in config else [])):
        made = load("chains", chain).make(given, steps)
        assert [step.timestep for step in made.steps] == scheduler.timesteps.tolist()
        check(monkeypatch, made, scheduler, scheduler.timesteps, expected)
    assert len(made.stds) == steps - 1


@pytest.mark.parametrize("steps", STEPS)
def test_a_flow_without_noise_is_the_schedulers_and_has_no_density(monkeypatch, steps):
    scheduler, given = schedule("FlowMatchEulerDiscreteScheduler", shift=3.0)
    chain = load("chains", "euler").make(given, steps)
    scheduler.set_timesteps(steps)
    sigmas = levels(steps, 3.0)
    expected = [
        (lambda x, u, gap=after - now: x + gap * u, 0.0)
        for now, after in zip(sigmas, sigmas[1:], strict=False)
    ]
    check(monkeypatch, chain, scheduler, scheduler.timesteps, expected)
    if steps > 1:
        with pytest.raises(UserError, match="the divergence kl is over the steps that draw noise"):
            chain.require_density("the divergence kl")


@pytest.mark.parametrize("steps", STEPS)
def test_scms_steps_are_the_schedulers(monkeypatch, steps):
    """The network's output is turned into TrigFlow's as SANA-Sprint's pipeline does it."""
    scheduler, given = schedule("SCMScheduler", sigma_data=0.5)
    chain = load("chains", "scm").make(given, steps)
    scheduler.set_timesteps(steps, **({} if steps == 2 else {"intermediate_timesteps": None}))
    angles = [1.5708 * (1 - i / steps) for i in range(steps + 1)]
    if steps == 2:
        angles[1] = 1.3
    assert scheduler.timesteps.tolist() == pytest.approx(angles, abs=1e-6)
    generator, size = torch.Generator().manual_seed(0), 0.5
    scheduler._step_index = 0
    assert chain.start == size
    for step, angle, after in zip(chain.steps, angles, angles[1:], strict=False):
        state, output = torch.randn(2, 16, generator=generator, dtype=torch.float64)
        time = math.sin(angle) / (math.cos(angle) + math.sin(angle))
        norm = math.hypot(time, 1 - time)
        given_state = state / size * norm
        assert step.timestep == pytest.approx(time, abs=1e-6)
        torch.testing.assert_close(step.input * state, given_state, rtol=1e-6, atol=1e-6)
        velocity = ((1 - 2 * time) * given_state + (1 - 2 * time + 2 * time**2) * output) / norm
        image = math.cos(angle) * state - math.sin(angle) * size * velocity
        unit = size if step is chain.steps[-1] else 1.0  # in which the pipeline gives an image
        ours = mean_of(step, state, output) * unit
        torch.testing.assert_close(ours, math.cos(after) * image, rtol=2e-6, atol=2e-6)
        assert step.std == pytest.approx(math.sin(after) * size, rel=2e-6, abs=1e-9)
        theirs, spread = their_step(monkeypatch, scheduler, angle, state, velocity * size)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert float(spread.mean()) == pytest.approx(step.std, abs=1e-5)
    assert len(chain.stds) == steps - 1


def test_lcm_takes_the_timesteps_that_are_given():
    _, given = schedule("LCMScheduler", timesteps=(999, 749, 499, 249))
    chain = load("chains", "lcm").make(given, 4)
    assert [step.timestep for step in chain.steps] == [999, 749, 499, 249]
    with pytest.raises(UserError, match="timesteps are 4, .* but inference_steps is 8"):
        load("chains", "lcm").make(given, 8)
    for wrong in ((249, 499), (1000, 499)):
        _, given = schedule("LCMScheduler", timesteps=wrong)
        with pytest.raises(UserError, match="timesteps must fall, from below 1000, unlike"):
            load("chains", "lcm").make(given, 2)


def put_back(monkeypatch, scheduler, image, noise):
    """`image`, as a chain's last step leaves it, at the noise level at which that step starts."""
    times = scheduler.timesteps
    if isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler):
        return scheduler.scale_noise(image, times[-1:], noise)
    if not isinstance(scheduler, diffusers.TCDScheduler | diffusers.SCMScheduler):
        return scheduler.add_noise(image, noise, times[-1:])
    # Those two step to an image, and put noise on it, in the step before.
    before, options = len(times) - 2, {"eta": 1.0}
    if isinstance(scheduler, diffusers.SCMScheduler):
        before, options = before - 1, {}
    (at_zero, clean), (at_one, _) = (
        stepped(monkeypatch, scheduler, before, image, value, **options) for value in (0.0, 1.0)
    )
    size = getattr(scheduler.config, "sigma_data", 1.0)
    return at_zero / (clean / size) * image + (at_one - at_zero) * noise


def stepped(monkeypatch, scheduler, index, state, value, **options):
    """What a scheduler's step makes of a state if it draws `value`, and the image before that."""
    drawn(monkeypatch, value)
    scheduler._step_index = index
    time, output = scheduler.timesteps[index], torch.full_like(state, 0.1)
    return scheduler.step(output, time, state, **options, return_dict=False)


LAST = {
    "lcm": ("LCMScheduler", STABLE_DIFFUSION),
    "tcd": ("TCDScheduler", STABLE_DIFFUSION),
    "ancestral": ("EulerAncestralDiscreteScheduler", STABLE_DIFFUSION),
    "flow": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "stochastic_sampling": True}),
    "scm": ("SCMScheduler", {"sigma_data": 0.5}),
    "ddim": ("DDIMScheduler", STABLE_DIFFUSION | {"set_alpha_to_one": True, "clip_sample": False}),
}


@pytest.mark.parametrize("steps", STEPS[1:])
@pytest.mark.parametrize("name", LAST)
def test_a_last_step_without_noise_starts_where_the_scheduler_puts_an_image_back(
    monkeypatch, name, steps
):
    kind, config = LAST[name]
    scheduler, given = schedule(kind, **config)
    chain = load("chains", name).make(given, steps)
    scheduler.set_timesteps(
        steps, **({"intermediate_timesteps": None} if name == "scm" and steps != 2 else {})
    )
    assert chain.last_step is not None and len(chain.stds) == steps - 1
    signal, std = chain.last_step
    generator = torch.Generator().manual_seed(0)
    image, noise = torch.randn(2, 1, 16, generator=generator, dtype=torch.float64)
    theirs = put_back(monkeypatch, scheduler, image, noise)
    torch.testing.assert_close(signal * image + std * noise, theirs, rtol=1e-5, atol=1e-5)


def test_a_chain_says_no_start_of_its_last_step_where_there_is_none():
    cases = [
        ("flow", "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, 1),  # of pure noise
        ("scm", "SCMScheduler", {}, 1),
        ("lcm", "LCMScheduler", {"rescale_betas_zero_snr": True, "prediction_type": KINDS[1]}, 1),
        ("euler", "FlowMatchEulerDiscreteScheduler", {}, 4),  # more than one draws nothing
        ("tcd", "TCDScheduler", {"gamma": 0.0}, 4),
        ("ddim", "DDIMScheduler", {"set_alpha_to_one": False}, 4),  # of no noise
    ]
    for name, kind, config, steps in cases:
        assert load("chains", name).make(schedule(kind, **config)[1], steps).last_step is None, name
    one = load("chains", "tcd").make(schedule("TCDScheduler", gamma=0.0)[1], 1)
    assert one.last_step is not None


def test_tcd_at_gamma_zero_has_no_density():
    _, given = schedule("TCDScheduler", gamma=0.0)
    chain = load("chains", "tcd").make(given, 4)
    assert chain.stds == []
    with pytest.raises(UserError, match="ppo is over the steps that draw noise"):
        chain.require_density("ppo")


@pytest.mark.parametrize("chain", ["tcd", "scm", "flow", "euler"])
def test_a_model_of_another_kind_is_refused(chain):
    _, given = schedule("DDIMScheduler")
    with pytest.raises(UserError, match="the model (is not|was not)"):
        load("chains", chain).make(given, 4)


def test_a_schedulers_default_chain_is_the_one_that_names_it(tmp_path):
    named = {s: c for c in names("chains") for s in facts("chains", c)["SCHEDULERS"]}
    assert all(hasattr(diffusers, scheduler) for scheduler in named)
    for scheduler, chain in named.items():
        folder = tmp_path / scheduler
        getattr(diffusers, scheduler)().save_pretrained(folder / "scheduler")
        assert default_chain(str(folder)) == chain
    assert default_chain(str(tmp_path / "absent")) is None
