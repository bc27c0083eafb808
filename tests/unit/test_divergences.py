"""Each divergence against its definition, integrated on a grid in one, two and three dimensions."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import tiny
import torch

from rocm_core.divergences import load_divergence
from rocm_core.errors import UserError
from rocm_core.plugins import names

STD = 0.7
F_DIVERGENCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # f in E_q[f(p/q)]
    "kl": lambda x: x * np.log(x),
    "reverse_kl": lambda x: -np.log(x),
    "jeffreys": lambda x: (x - 1) * np.log(x),
    "hellinger": lambda x: (np.sqrt(x) - 1) ** 2 / 2,
    "js": lambda x: (x * np.log(x) - (x + 1) * np.log((x + 1) / 2)) / 2,
    "chi2": lambda x: (x - 1) ** 2,
    "total_variation": lambda x: np.abs(x - 1) / 2,
    "alpha": lambda x: (1 - x**0.9) / (0.9 * 0.1),
}
EXACT = sorted(set(names("divergences")) - {"js_sampled"})
BOUNDED = ["alpha", "hellinger", "js", "total_variation"]


def grid(dimensions: int, step: float, reach: float) -> tuple[np.ndarray, float]:
    """Points `(n, dimensions)` and the volume of each."""
    axis = np.arange(-reach, reach + step / 2, step)
    points = np.stack(np.meshgrid(*[axis] * dimensions, indexing="ij"), -1)
    return points.reshape(-1, dimensions), step**dimensions


def log_density(points: np.ndarray, mean: np.ndarray) -> np.ndarray:
    squared = ((points - mean) ** 2).sum(-1) / STD**2
    return -squared / 2 - points.shape[1] * math.log(STD * math.sqrt(2 * math.pi))


def value(name: str, squared_distance: float) -> float:
    return load_divergence(name)(torch.tensor(squared_distance, dtype=torch.float64), STD).item()


@pytest.mark.parametrize("name", sorted(F_DIVERGENCES))
@pytest.mark.parametrize(
    ("p_mean", "q_mean", "step"),
    [
        ([0.0], [0.15], 0.001),
        ([0.4], [-0.5], 0.001),
        ([-0.9], [0.9], 0.001),
        ([0.1, -0.3], [-0.4, 0.2], 0.04),
        ([0.2, 0.0, -0.3], [-0.1, 0.4, 0.1], 0.15),
    ],
)
def test_it_is_what_its_definition_integrates_to(name, p_mean, q_mean, step):
    p_mean, q_mean = np.array(p_mean), np.array(q_mean)
    points, volume = grid(len(p_mean), step, reach=9.0 if len(p_mean) == 1 else 4.8)
    log_p, log_q = log_density(points, p_mean), log_density(points, q_mean)
    integral = (np.exp(log_q) * F_DIVERGENCES[name](np.exp(log_p - log_q))).sum() * volume
    squared_distance = ((p_mean - q_mean) ** 2).sum() / STD**2
    tolerance = 3e-3 if name == "total_variation" and len(p_mean) > 1 else 1e-6  # its kink
    assert value(name, squared_distance) == pytest.approx(integral, rel=tolerance, abs=1e-12)


def test_fisher_is_the_mean_squared_difference_of_the_scores():
    p_mean, q_mean = np.array([0.2, -0.3]), np.array([-0.2, 0.4])
    points, volume = grid(2, 0.02, reach=6.0)
    width = 1e-3
    squared = 0.0
    for shift in np.eye(2) * width:
        difference = [
            (log_density(points + shift, mean) - log_density(points - shift, mean)) / (2 * width)
            for mean in (p_mean, q_mean)
        ]
        squared = squared + (difference[0] - difference[1]) ** 2
    integral = (np.exp(log_density(points, p_mean)) * squared).sum() * volume
    squared_distance = ((p_mean - q_mean) ** 2).sum() / STD**2
    assert value("fisher", squared_distance) == pytest.approx(integral, rel=1e-6)


@pytest.mark.parametrize("name", ["js", "hellinger", "total_variation", "jeffreys"])
def test_symmetric_ones_integrate_to_the_same_either_way(name):
    points, volume = grid(1, 0.001, reach=6.0)
    log_p, log_q = log_density(points, np.array([0.3])), log_density(points, np.array([-0.8]))
    f = F_DIVERGENCES[name]
    forward = (np.exp(log_q) * f(np.exp(log_p - log_q))).sum() * volume
    backward = (np.exp(log_p) * f(np.exp(log_q - log_p))).sum() * volume
    assert value(name, (1.1 / STD) ** 2) == pytest.approx(forward, rel=1e-6)
    assert value(name, (1.1 / STD) ** 2) == pytest.approx(backward, rel=1e-6)


def test_reverse_kl_is_kl():
    distances = torch.logspace(-6, 6, 50, dtype=torch.float64)
    kl, reverse_kl = load_divergence("kl"), load_divergence("reverse-kl")
    assert torch.equal(kl(distances, STD), reverse_kl(distances, STD))


@pytest.mark.parametrize(
    ("distance", "kl", "hellinger", "js"),
    [
        (0.1, 0.005, 0.00124921908, 0.00124844010),
        (1.0, 0.5, 0.1175030974, 0.1114214822),
        (3.0, 4.5, 0.6753475326, 0.5267773065),
        (8.0, 32.0, 0.9996645374, 0.6930536455),
    ],
)
def test_published_values(distance, kl, hellinger, js):
    expected = {"kl": kl, "hellinger": hellinger, "js": js}
    for name, number in expected.items():
        assert value(name, distance**2) == pytest.approx(number, abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EXACT)
def test_it_grows_from_zero_with_a_finite_slope(name, dtype):
    distances = torch.cat([torch.zeros(1), torch.logspace(-30, 1.9, 400)]).to(dtype)
    distances.requires_grad_()
    values = load_divergence(name)(distances, STD)
    (slope,) = torch.autograd.grad(values.sum(), distances)
    assert values.dtype == dtype and values[0] == 0
    assert values.isfinite().all() and slope.isfinite().all()
    assert (values.diff() >= -1e-7 * values[1:]).all() and (slope >= 0).all()


@pytest.mark.parametrize("name", BOUNDED)
def test_bounded_ones_reach_their_bound_and_stay_below(name):
    divergence = load_divergence(name)
    values = divergence(torch.logspace(-3, 8, 200, dtype=torch.float64), STD)
    assert (values <= divergence.bound).all()
    assert values[-1] == pytest.approx(divergence.bound, rel=1e-12)


@pytest.mark.parametrize("name", EXACT)
def test_slopes_are_those_of_the_values(name):
    distances = torch.tensor([0.02, 0.3, 0.97, 1.03, 2.0, 9.0, 30.0], dtype=torch.float64)
    distances.requires_grad_()
    divergence = load_divergence(name)
    tolerance = {"rtol": 1e-4, "atol": 1e-9}
    assert torch.autograd.gradcheck(lambda d: divergence(d, STD), distances, eps=1e-6, **tolerance)


def test_js_joins_its_two_expressions_smoothly_and_keeps_precision_near_zero():
    below, above = (torch.tensor(1 + s * 1e-12, dtype=torch.float64) for s in (-1, 1))
    js = load_divergence("js")
    assert abs(js(below, STD) - js(above, STD)) < 1e-12
    tiny = torch.logspace(-30, -8, 23)
    assert torch.allclose(js(tiny, STD), tiny / 8, rtol=1e-6, atol=0)  # float32


def test_sampled_js_agrees_with_the_quadrature_and_with_samples_of_the_transition():
    torch.manual_seed(0)
    draws, dimensions = 200_000, 12
    difference = torch.linspace(-0.6, 0.7, dimensions, dtype=torch.float64)
    squared_distance = (difference**2).sum() / STD**2
    exact = squared_distance.clone().requires_grad_()
    js = load_divergence("js")(exact, STD)
    (slope,) = torch.autograd.grad(js, exact)
    js = js.detach()

    repeated = squared_distance.expand(draws).clone().requires_grad_()
    estimates = load_divergence("js-sampled")(repeated, STD)
    (slopes,) = torch.autograd.grad(estimates.sum(), repeated)
    estimates = estimates.detach()

    p = torch.distributions.Normal(difference, STD)
    q = torch.distributions.Normal(torch.zeros_like(difference), STD)
    x = p.sample((draws,))
    log_ratio = (q.log_prob(x) - p.log_prob(x)).sum(1)
    in_full = math.log(2) - torch.nn.functional.softplus(log_ratio)

    for samples, expected in ((estimates, js), (slopes, slope), (in_full, js)):
        error = samples.std() / draws**0.5
        assert error > 0 and abs(samples.mean() - expected) < 4 * error
    assert float(estimates.std()) == pytest.approx(float(in_full.std()), rel=0.02)


HUGE = {"float16": 6e4, "bfloat16": 3e38, "float32": 3e38, "float64": 1e308}


@pytest.mark.parametrize("dtype", HUGE)
@pytest.mark.parametrize("name", names("divergences"))
def test_limits_in_every_precision(name, dtype):
    """Value and slope at 0, at the smallest and the largest numbers, and at infinity."""
    torch.manual_seed(0)
    precision, divergence = getattr(torch, dtype), load_divergence(name)
    smallest = torch.finfo(precision).smallest_normal
    distances = torch.tensor([0.0, smallest, 1e-3, 1.0, HUGE[dtype], math.inf], dtype=precision)
    distances.requires_grad_()
    values = divergence(distances, torch.tensor(STD, dtype=torch.double))
    (slopes,) = torch.autograd.grad(values.sum(), distances)
    assert values.dtype == slopes.dtype == precision
    assert not values.isnan().any() and not slopes.isnan().any()
    assert values[0] == 0 or name == "js_sampled" and abs(values[0]) < 1e-6
    assert slopes[:4].isfinite().all() and (slopes >= 0).all()
    if divergence.bound < math.inf:
        bound = torch.tensor(divergence.bound, dtype=precision)
        assert torch.equal(values[-2:], bound.expand(2)) and not slopes[-2:].any()
    else:
        assert values[-1] == math.inf
        exact = load_divergence(name)(distances.detach().double(), STD)
        error = 4 * torch.finfo(precision).eps
        assert torch.allclose(values[:4].double(), exact[:4], rtol=error, atol=smallest)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", EXACT)
def test_half_precision_is_the_rounded_value(name, dtype):
    distances = torch.logspace(-3, 0.9, 30).to(dtype).requires_grad_()
    wide = distances.detach().double().requires_grad_()
    divergence = load_divergence(name)
    for values, at in ((divergence(distances, STD), distances), (divergence(wide, STD), wide)):
        values.sum().backward()
        assert at.grad.isfinite().all()
    error = 2 * torch.finfo(dtype).eps
    assert torch.allclose(divergence(distances, STD).double(), divergence(wide, STD), rtol=error)
    assert torch.allclose(distances.grad.double(), wide.grad, rtol=error)


def test_an_unknown_divergence_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"divergences/kll.py for 'kll'; did you mean kl\?$"):
        load_divergence("kll")


def test_the_documented_new_file_is_a_new_divergence(tmp_path, monkeypatch):
    module = "rocm_core/divergences/renyi.py"
    name = tiny.write_package(tmp_path, "documented_divergences", module)
    monkeypatch.syspath_prepend(tmp_path)
    divergence = load_divergence(name)
    points, volume = grid(1, 0.001, reach=9.0)
    log_p, log_q = log_density(points, np.array([0.3])), log_density(points, np.array([-0.2]))
    integral = math.log(np.exp(2 * log_p - log_q).sum() * volume)
    squared_distance = torch.tensor((0.5 / STD) ** 2, dtype=torch.float64)
    assert float(divergence(squared_distance, STD)) == pytest.approx(integral, rel=1e-6)
    assert divergence.bound == math.inf
