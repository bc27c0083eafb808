"""A reference that moves: it becomes the policy every few iterations, or follows it slowly."""

import csv

import pytest
import tiny
import torch
from synthetic import make_config

from rocm_core.algorithms import Batch, load_algorithm
from rocm_core.errors import UserError
from rocm_core.grid import make_grid
from rocm_core.policies import MODES, add_adapter, add_reference, load_lora, lora_parameters
from rocm_core.policies.lora import read_lora
from rocm_core.training import train

KL = {"divergence": "kl", "beta": 0.1, "snapshot_every": 1}


@pytest.fixture
def run(model, reward, tmp_path):
    def run(name="run", **changes):
        train(tiny.settings(model=model, **(KL | changes)), tiny.PROMPTS, tmp_path / name)
        with open(tmp_path / name / "history.csv", newline="") as file:
            return [float(row["squared_distance"]) for row in csv.DictReader(file)]

    return run


@pytest.mark.parametrize("algorithm", ["direct", "ppo", "d3po"])
def test_after_a_reset_the_policy_is_its_own_reference(run, algorithm):
    changes = {"algorithm": algorithm, "images_per_prompt": 2, "reference_reset": 2}
    distances = run(**changes)
    assert [i for i, distance in enumerate(distances, 1) if distance == 0] == [1, 3, 5]


def test_a_reference_that_follows_is_the_mean_of_the_policies_before(run, model, tmp_path):
    decay = 0.5
    distances, fixed = run(reference_decay=decay), run("fixed")
    policy = tiny.load_policy("consistency", model, 3, 4.0)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    reference = add_reference(policy.network)
    rule = load_algorithm(tiny.settings(divergence="kl", beta=0.1))
    mean = {name: value.clone() for name, value in reference.items()}
    for step in range(1, 4):
        lora, _ = read_lora(tmp_path / f"run/snapshots/step-{step}.safetensors")
        now = {name.removeprefix("unet."): value for name, value in lora.items()}
        mean = {name: decay * mean[name] + (1 - decay) * now[name] for name in mean}
        with torch.no_grad():
            for name, parameter in lora_parameters(policy.network).items():
                parameter.copy_(now[name])
                reference[name].copy_(mean[name])
        positions = [str(2 * step), str(2 * step + 1)]
        noise = policy.noise(0, positions, "training")
        prompts = prompts_at(step)
        _, seen = rule.loss(
            policy, tiny.Brightness(), Batch(prompts, policy.encode_prompts(prompts), noise)
        )
        expected = float(seen.squared_distances.sum(1).mean())
        assert distances[step] == pytest.approx(expected, rel=1e-4)
        assert 0 < distances[step] < fixed[step]


def prompts_at(step):
    """Those of iteration `step` + 1, as the trainer deals them."""
    from rocm_core.policies import permutation

    count, texts = len(tiny.PROMPTS), []
    for position in (2 * step, 2 * step + 1):
        epoch, place = divmod(position, count)
        texts.append(tiny.PROMPTS[permutation(0, str(epoch), count, "prompts")[place]].text)
    return texts


def test_a_reference_that_has_not_moved_is_the_base_to_the_bit(run):
    assert run(reference_reset=100) == run("fixed")


def test_what_is_saved_is_the_policys_adapter_alone(run, model, tmp_path):
    run(reference_decay=0.9)
    policy = tiny.load_policy("consistency", model, 3, 4.0)
    load_lora(policy.network, tmp_path / "run/lora.safetensors")


@pytest.mark.parametrize("gradient", ["full", "stop"])
def test_checkpointing_evaluates_a_moved_reference_again(model, gradient):
    policy = tiny.load_policy("consistency", model, 3, 4.0)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    reference = add_reference(policy.network)
    tiny.perturb(policy.network)
    for value in reference.values():
        value.data += 0.05
    prompts = [prompt.text for prompt in tiny.PROMPTS[:2]]
    batch = Batch(prompts, policy.encode_prompts(prompts), policy.noise(0, ["a", "b"], "test"))
    settings = tiny.settings(divergence="kl", beta=0.1, reference_gradient=gradient)
    gradients = []
    for mode in MODES:
        policy.activation_checkpointing = mode
        loss, _ = load_algorithm(settings).loss(policy, tiny.Brightness(), batch)
        loss.backward()
        parameters = lora_parameters(policy.network).values()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))
        policy.zero_grad()
        assert not any(value.requires_grad for value in reference.values())
    assert gradients[0].norm() > 0
    for other in gradients[1:]:
        assert torch.equal(other, gradients[0])


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (
            {"rocm-none": {"reference_reset": 5}},
            "methods.rocm-none.reference_reset has no effect without a divergence: remove it",
        ),
        (
            {"rlcm": {"reference_decay": 0.0}},
            "methods.rlcm.reference_decay has no effect without a divergence: remove it",
        ),
        (
            {"rocm-kl": {"beta": 0.1, "reference_reset": 5, "reference_decay": 0.9}},
            "methods.rocm-kl: reference_reset and reference_decay exclude each other: set one",
        ),
        (
            {"rocm-kl": {"beta": 0.1, "reference_reset": 0}},
            "reference_reset must be a whole number",
        ),
        ({"rocm-kl": {"beta": 0.1, "reference_decay": 1}}, "reference_decay must be a number from"),
        (
            {"rocm-kl": {"beta": 0.1, "reference_reset": 40}},
            "methods.rocm-kl.reference_reset must be below iterations, 40, or the reference never"
            " moves",
        ),
    ],
)
def test_what_moves_no_reference_is_refused(methods, said):
    with pytest.raises(UserError) as error:
        make_grid(make_config(methods=methods))
    assert said in str(error.value)


def test_methods_without_a_divergence_ignore_what_is_said_for_all():
    config = make_config(training={"iterations": 40, "reference_decay": 0.9})
    for cell in make_grid(config):
        moves = cell.settings.divergence != "none"
        assert (cell.settings.reference_decay is not None) == moves
        assert ("reference_decay" in cell.settings.to_dict()) == moves
