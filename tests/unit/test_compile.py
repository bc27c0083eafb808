"""`compile: true` compiles what it says, and changes no more than rounding.

Torch's own code generator takes minutes; but for one slow test, `aot_eager` stands in for it: the
same capture of graphs, forward and backward, run operation by operation and so equal to the bit.
"""

import functools

import pytest
import tiny
import torch
from torch._dynamo.utils import counters

import rocm_core.training.job
from rocm_core.algorithms import Batch, load_algorithm
from rocm_core.errors import UserError
from rocm_core.policies import add_adapter, compile_network, lora_parameters
from rocm_core.training import plan_checkpointing


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    counters.clear()


@pytest.fixture
def captured(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


def graphs():
    """Captured ones; what is not captured as a whole would count as a break."""
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"]


def gradient(model, mode, reference, compiled, dtype=torch.float32):
    policy = tiny.load_policy("consistency", model, 3, 4.0, dtype=dtype)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    tiny.perturb(policy.network, 0.1)
    if compiled:
        compile_network(policy.network, policy.device)
    settings = tiny.settings(divergence="kl", beta=0.1, reference_gradient=reference)
    algorithm = load_algorithm(settings)
    policy.activation_checkpointing = mode
    noise = policy.noise(0, ["0", "1"], "test")
    batch = Batch(["a red cat"] * 2, policy.encode_prompts(["a red cat"] * 2), noise)
    loss, _ = algorithm.loss(policy, tiny.Brightness(), batch)
    values = torch.autograd.grad(loss, list(lora_parameters(policy.network).values()))
    return torch.cat([value.flatten() for value in values])


# Adapted and reference, of the first state and of later ones; a step evaluated again for `stop`
# passes once without gradient, once with it.
@pytest.mark.faults  # for its time
@pytest.mark.parametrize(("mode", "reference", "kinds"), [("none", "full", 4), ("step", "stop", 6)])
def test_a_compiled_step_has_the_same_gradient(model, captured, mode, reference, kinds):
    plain, compiled = (gradient(model, mode, reference, switch) for switch in (False, True))
    assert plain.norm() > 0
    assert torch.equal(compiled, plain)
    assert graphs() == 1 + kinds, "a probe, and these"


@pytest.mark.slow
def test_the_pass_of_both_means_compiles_as_a_whole(model, captured):
    arguments = (model, "none", "full")
    plain = gradient(*arguments, False, torch.bfloat16)
    assert plain.norm() > 0
    assert torch.equal(gradient(*arguments, True, torch.bfloat16), plain)
    assert graphs() == 1 + 3, "a probe; both means at the first state and later; the last step"


def test_blocks_of_a_compiled_network_are_not_checkpointed(model):
    policy = tiny.load_policy("consistency", model, 3, 4.0)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    batch = Batch(["a"], policy.encode_prompts(["a"]), policy.noise(0, ["0"], "test"))
    settings = tiny.settings(compile=True).model_copy(update={"memory": 1e-4})
    with pytest.raises(UserError, match="activation checkpointing of every step: .* compile out"):
        plan_checkpointing(settings, None, policy, tiny.Brightness(), batch)


def test_a_machine_that_cannot_compile_is_told_so(model, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    policy = tiny.load_policy("consistency", model, 3, 4.0)
    with pytest.raises(UserError, match="compile: torch cannot compile here .*no compiler"):
        compile_network(policy.network, policy.device)


def broken(graph, inputs):
    raise FileNotFoundError("no compiler")


@pytest.mark.slow
def test_torchs_own_code_has_the_same_gradient(model):
    plain, compiled = (gradient(model, "none", "full", switch) for switch in (False, True))
    assert 0 < (compiled - plain).norm() < 1e-5 * plain.norm()
    assert graphs() == 1 + 4
    torch._dynamo.reset()
    assert torch.equal(gradient(model, "step", "full", True), compiled), (
        "evaluated again as at first"
    )


@pytest.mark.slow
def test_compiled_in_bfloat16_the_adapter_starts_as_the_reference(model):
    policy = tiny.load_policy("consistency", model, 3, 4.0, dtype=torch.bfloat16)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    compile_network(policy.network, policy.device)
    embeddings, noise = policy.encode_prompts(["a red cat"]), policy.noise(0, ["0"], "test")
    assert not policy.rollout(embeddings, noise, "full").squared_distances().any()


@pytest.mark.faults
def test_a_compiled_training_measures_its_memory_first_and_resumes_to_the_bit(
    model, reward, captured, tmp_path, monkeypatch
):
    monkeypatch.setattr("rocm_core.training.job.SAVE_SECONDS", 1e9)

    def run(name, compile=True, stop_after=None):
        torch._dynamo.reset()
        settings = tiny.settings(model=model, inference_steps=2, compile=compile)
        folders = tmp_path / name, tmp_path / f"{name}-state"
        rocm_core.training.job.train(settings, tiny.PROMPTS, *folders, "f00d", stop_after)
        return (tmp_path / name / "lora.safetensors").read_bytes()

    plain = run("plain", compile=False)
    assert graphs() == 0
    with pytest.raises(SystemExit):
        run("parts", stop_after=2)
    assert graphs() == 1 + 2, "a probe; the adapted U-Net for the first state and the next"
    assert run("parts") == plain
    assert graphs() == 2 * (1 + 2)
