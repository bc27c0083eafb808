"""A step of the few-step models does no hidden passes: their operations at true size and fewer
layers, or at full depth with the faults, counted without any weights."""

import pytest
import torch
import true_size

from rocm_core.grid.costs import COSTS

STEPS = 3
SHALLOW = {
    "SDXL": {"transformer_layers_per_block": 1, "layers_per_block": 1},
    "SANA-Sprint": {"num_layers": 2},
    "SD3.5-large": {"num_layers": 2},
    "FLUX.1": {"num_layers": 1, "num_single_layers": 2},
}
FULL = [pytest.param(name, {}, marks=pytest.mark.faults) for name in SHALLOW]


@pytest.mark.parametrize(("name", "network"), [*SHALLOW.items(), *FULL])
def test_a_step_takes_its_passes_and_no_more(name, network):
    policy, text = true_size.policy(name, STEPS, **network), true_size.embeddings(name)
    if not network:
        weights = (p.numel() for k, p in policy.network.named_parameters() if "lora" not in k)
        assert sum(weights) / 1e9 == pytest.approx(true_size.MODELS[name].parameters, rel=0.02)
    forward, both = true_size.passes(policy, text)
    noise = torch.empty(1, 1 + len(policy.stds), *policy.denoiser.latent_shape, device="meta")

    def step():
        trajectory = policy.rollout(text, noise, "full")
        loss = policy.decode(trajectory.latents).mean() - trajectory.squared_distances().sum()
        loss.backward()

    # All steps pass forward and backward, and so does the reference of those that draw; the first
    # state is noise, which needs no gradient.
    draws = len(policy.stds)
    expected = STEPS * both + draws * forward + (draws - 1) * (both - forward)
    expected += true_size.decoding(policy)
    assert true_size.tera(step) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n == "SANA-Sprint" else pytest.mark.slow)
        for n in true_size.MODELS
    ],
)
def test_plans_count_what_torch_counts(name):
    (costs,) = [costs for costs in COSTS.values() if costs.name == name]
    policy, text = true_size.policy(name, 2), true_size.embeddings(name)
    for side, (forward, backward, decode) in zip(
        costs.sides, map(costs.teraflop, costs.sides), strict=True
    ):
        policy.denoiser.resolution = side
        alone, both = true_size.passes(policy, text)
        expected = pytest.approx([alone, both - alone, true_size.decoding(policy) / 2], rel=0.02)
        assert [forward, backward, decode] == expected
    adapter = sum(p.numel() for k, p in policy.network.named_parameters() if "lora" in k)
    assert costs.bytes_per_rank == pytest.approx(4 * adapter / 16, rel=0.05)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["PixArt-α", "SANA-Sprint"])  # which take the least time
def test_plans_know_the_memory_that_is_predicted(name):
    (costs,) = [costs for costs in COSTS.values() if costs.name == name]
    assert true_size.peak(name, "step") == pytest.approx(costs.memory[1024][0], abs=0.5)
