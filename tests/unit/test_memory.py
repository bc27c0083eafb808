"""What is checkpointed is chosen so that a step stays within its memory."""

import few_step
import pytest
import tiny
import torch
from accelerate import Accelerator

from rocm_core.algorithms import Batch, load_algorithm
from rocm_core.errors import UserError
from rocm_core.policies import MODES, add_adapter
from rocm_core.training import (
    GIB,
    LiveBytes,
    Trainer,
    choose_checkpointing,
    plan_checkpointing,
    predict_peak,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny.write_pipeline(tmp_path_factory.mktemp("models") / "tiny"))


def loaded(model, steps):
    policy = tiny.load_policy("consistency", model, steps, 4.0)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    tiny.perturb(policy.network, 0.1)
    return policy


def batch_for(policy, size=4):
    keys = [str(i) for i in range(size)]
    embeddings = policy.encode_prompts(["a red cat"] * size)
    return Batch(["a red cat"] * size, embeddings, policy.noise(0, keys, "test"))


def test_live_bytes_are_those_of_tensors_that_are_alive():
    weight = torch.randn(8, 8)  # made outside: not counted
    with LiveBytes(CPU) as live:
        first = torch.zeros(100)
        assert live.now() == 400
        view = first[:50].reshape(5, 10)
        weight.t()
        weight.add_(1)
        assert live.now() == 400
        second = first + 1
        del first
        assert live.now() == 800, "the view keeps what it looks at"
        del view, second
        assert (live.now(), live.most()) == (0, 800)


def test_the_fastest_mode_that_fits_is_chosen():
    needs = {"none": 4 * GIB, "step": 2 * GIB, "block": 1 * GIB}
    chosen = [choose_checkpointing(limit, CPU, needs.__getitem__) for limit in (4.0, 3.9, 1.0)]
    assert chosen == list(MODES)
    with pytest.raises(UserError, match="memory: 0.5 GiB is too little, as a step takes 1 GiB"):
        choose_checkpointing(0.5, CPU, needs.__getitem__)
    assert choose_checkpointing("auto", CPU, lambda mode: float("inf")) == "block"


def test_auto_is_the_jobs_memory_where_it_has_one(monkeypatch):
    needs = {"none": 2 * GIB, "step": 1 * GIB, "block": 0}
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "2048")
    assert choose_checkpointing("auto", CPU, needs.__getitem__) == "step"


@pytest.mark.parametrize("reference", [None, "full", "stop"])
@pytest.mark.parametrize("mode", MODES)
def test_the_predicted_peak_is_the_measured_one(model, reference, mode):
    divergence = {"divergence": "kl", "beta": 0.1} if reference else {}
    settings = tiny.settings(**divergence, reference_gradient=reference or "full")
    policy, algorithm = loaded(model, 3), load_algorithm(settings)
    batch, reward = batch_for(policy), tiny.Brightness()
    predicted = predict_peak(policy, reward, batch, algorithm.reference, mode)
    policy.activation_checkpointing = mode
    assert predicted == pytest.approx(tiny.peak_bytes(policy, algorithm, batch), rel=0.1)


@pytest.mark.faults
@pytest.mark.parametrize("name", few_step.EACH)
def test_so_it_is_with_every_denoiser(tmp_path, name):
    policy = few_step.load(name, few_step.write(tmp_path / "model", name), 3)
    add_adapter(policy.network, 2, 6.0, ("to_q", "to_k", "to_v", "to_out.0"), seed=0)
    algorithm = load_algorithm(tiny.settings(divergence="kl", beta=0.1))
    batch, reward = batch_for(policy), tiny.Brightness()
    for mode in MODES:
        predicted = predict_peak(policy, reward, batch, algorithm.reference, mode)
        policy.activation_checkpointing = mode
        assert predicted == pytest.approx(tiny.peak_bytes(policy, algorithm, batch), rel=0.1)


@pytest.mark.parametrize("reference", ["full", "stop"])
def test_a_step_stays_under_its_limit_however_long_the_chain(model, reference):
    modes = []
    for steps in (1, 6):
        policy = loaded(model, steps)
        batch = batch_for(policy)
        plain = load_algorithm(tiny.settings(divergence="kl", beta=0.1))
        if steps == 1:
            limit = 1.3 * tiny.peak_bytes(policy, plain, batch) / GIB
        settings = tiny.settings(divergence="kl", beta=0.1, reference_gradient=reference)
        settings = settings.model_copy(update={"memory": limit})  # below what a file may ask for
        algorithm = load_algorithm(settings)
        mode = plan_checkpointing(settings, algorithm.reference, policy, tiny.Brightness(), batch)
        policy.activation_checkpointing = mode
        assert tiny.peak_bytes(policy, algorithm, batch) <= limit * GIB
        modes.append(mode)
    assert modes[0] == "none" and modes[-1] != "none"


def test_a_policy_gradient_keeps_no_rollout_so_nothing_is_checkpointed(model):
    policy, settings = loaded(model, 2), tiny.settings(algorithm="ppo")
    assert "memory" not in settings.to_dict()
    planned = plan_checkpointing(settings, None, policy, tiny.Brightness(), batch_for(policy))
    assert planned == "none"


def test_a_resumed_training_keeps_its_plan(model, reward):
    def trainer():
        return Trainer(tiny.settings(model=model), tiny.PROMPTS, "f00d", Accelerator())

    first, resumed = trainer(), trainer()
    first.iterate(1)
    assert first.policy.activation_checkpointing == "none", "there is memory for everything"
    resumed.load_state_dict(first.state_dict() | {"activation_checkpointing": "block"})
    resumed.iterate(2)
    assert resumed.policy.activation_checkpointing == "block"
