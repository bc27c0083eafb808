import torch

from rocm_core.policies import gaussian, integer, permutation


def test_an_entry_depends_on_seed_stream_and_its_own_key_only():
    together = gaussian(3, ["a", "b", "c"], (4, 2), "training")
    assert together.shape == (3, 4, 2) and together.dtype == torch.float32
    assert torch.equal(gaussian(3, ["c"], (4, 2), "training")[0], together[2])
    for other in (
        gaussian(4, ["a"], (4, 2), "training"),
        gaussian(3, ["a"], (4, 2), "generation"),
        gaussian(3, ["b"], (4, 2), "training"),
    ):
        assert not torch.equal(other[0], together[0])
    assert gaussian(3, [], (4, 2), "training").shape == (0, 4, 2)


def test_names_that_run_together_are_kept_apart():
    assert not torch.equal(gaussian(1, ["2"], (8,), "s"), gaussian(12, [""], (8,), "s"))
    assert not torch.equal(gaussian(1, ["ab"], (8,), "s"), gaussian(1, ["b"], (8,), "sa"))


def test_draws_are_standard_normal_and_uncorrelated():
    draws = gaussian(0, [str(i) for i in range(2000)], (50,), "s").double()
    n = draws.numel()
    assert abs(draws.mean()) < 4 / n**0.5
    assert abs(draws.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((draws[1:] * draws[:-1]).mean()) < 4 / n**0.5
    below = (draws < 1).double().mean()
    assert abs(below - 0.841344746) < 4 * (0.1335 / n) ** 0.5


def test_permutations_hold_every_number_once_and_differ_between_epochs():
    orders = [permutation(0, str(epoch), 30, "prompts") for epoch in range(4)]
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert permutation(0, "2", 30, "prompts") == orders[2]


def test_derived_seeds_fit_torch_and_differ():
    seeds = {integer(0, str(i), "s") for i in range(100)}
    assert len(seeds) == 100 and all(0 <= seed < 2**63 for seed in seeds)
