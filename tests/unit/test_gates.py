"""β for those images alone about which held-out scorers do not share the reward's opinion."""

import csv
import json

import pytest
import tiny
import torch
import toy
from synthetic import make_config

import rocm_core.training.trainer
from rocm_core.algorithms import load_algorithm
from rocm_core.errors import UserError
from rocm_core.grid import Artefacts, make_grid, training_work
from rocm_core.training import train
from rocm_core.training.disagreement import DisagreementGate

STANDARDS = {
    "closeness": {"mean": -1.0, "std": 0.5},
    "high": {"mean": 0.2, "std": 2.0},
    "low": {"mean": 0.0, "std": 1.0},
}


class Height:
    def __init__(self, sign):
        self.sign = sign

    def score(self, images, prompts):
        assert not images.requires_grad
        return self.sign * images.flatten()


def gate(above=0.0):
    scorers = {"high": Height(1), "low": Height(-1)}
    return DisagreementGate("closeness", scorers, STANDARDS, above)


def test_a_gate_is_open_where_the_reward_rates_higher_than_the_others_on_average():
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0, 3.0]).double()
    reward = -((x - 1) ** 2)
    others = ((x - 0.2) / 2 + -x) / 2
    higher = (reward + 1) / 0.5 - others
    for above in (0.0, 1.0):
        found = gate(above)(x.reshape(5, 1, 1, 1), ["x"] * 5, reward)
        assert found.tolist() == (higher > above).double().tolist()
        assert {*found.tolist()} == {0.0, 1.0}


def gradient(name, opened, beta=0.5, size=8, **changes):
    """Of an algorithm's first update whose gates are `opened`; None: it has no gate."""
    changes |= {"images_per_prompt": 2, "divergence": "kl"}
    policy = toy.ToyPolicy(2, deterministic=name == "hybrid")
    with torch.no_grad():
        policy.network.shift += 0.3
    rule = load_algorithm(tiny.settings(algorithm=name, beta=beta, **changes))
    if opened is not None:
        rule.gate = lambda images, prompts, reward: torch.tensor(opened).to(reward)
    given = toy.batch(policy, size, torch.Generator().manual_seed(0))
    gradients = toy.Gradients(policy)
    (seen,) = rule.update(policy, toy.Closeness(), [given], gradients)
    return gradients.steps[0], seen


@pytest.mark.parametrize("name", ["direct", "ppo", "grpo", "dpok", "rebel", "hybrid"])
def test_every_algorithm_regularises_the_images_whose_gate_is_open_and_no_others(name):
    opened = [1.0, 0.0] * 4
    (none, _), (every, seen) = (gradient(name, None, beta) for beta in (0.0, 0.5))
    (gated, watched), (shut, _) = (gradient(name, gates) for gates in (opened, [0.0] * 8))
    (rest, _) = gradient(name, [0.0, 1.0] * 4)
    assert torch.allclose(shut, none, atol=1e-12)
    assert torch.equal(gradient(name, [1.0] * 8)[0], every)
    assert torch.allclose(gated - none + rest - none, every - none, atol=1e-12)
    assert (gated - none).abs().max() > 1e-3 and not torch.allclose(gated, rest)
    assert float(watched.diagnostics["gated"]) == 0.5
    assert torch.equal(watched.divergence, seen.divergence)  # what is logged is that of all
    assert "gated" not in seen.diagnostics


@pytest.fixture
def scorers(monkeypatch):
    known = {"brightness": tiny.Brightness(), "judge": tiny.Brightness()}
    monkeypatch.setattr(rocm_core.training.trainer, "load_reward", lambda name, *_: known[name])
    return known


MEASURED = {"brightness": {"mean": 0.3, "std": 0.1}, "judge": {"mean": 0.3, "std": 0.1}}


def run(model, folder, stop_after=None, **changes):
    changes = {"gate_by": "judge", "scorers": {"judge": None}, "iterations": 4} | changes
    settings = tiny.settings(model=model, divergence="kl", beta=0.1, **changes)
    train(settings, tiny.PROMPTS, folder, standards=MEASURED, stop_after=stop_after)
    with open(folder / "history.csv", newline="") as file:
        return [float(row["gated"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("algorithm", ["direct", "ppo"])
def test_a_training_says_how_many_gates_were_open_and_resumes_exactly(
    model, scorers, tmp_path, algorithm
):
    scorers["judge"].score = lambda images, prompts: images.mean((1, 2, 3)) - 0.1
    shares = run(model, tmp_path / "whole", algorithm=algorithm, gate_above=0.5)
    assert set(shares) <= {0.0, 0.5, 1.0}
    with pytest.raises(SystemExit):
        run(model, tmp_path / "parts", 2, algorithm=algorithm, gate_above=0.5)
    assert run(model, tmp_path / "parts", algorithm=algorithm, gate_above=0.5) == shares
    whole, parts = (tmp_path / name / "lora.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    assert json.loads((tmp_path / "whole/manifest.json").read_text())["standards"] == MEASURED


def test_a_gate_by_the_reward_itself_is_never_open(model, scorers, tmp_path):
    assert run(model, tmp_path / "run") == [0.0] * 4


def test_a_gates_scorer_whose_score_is_not_a_number_ends_the_run_and_is_named(
    model, scorers, tmp_path
):
    scorers["judge"].score = lambda images, prompts: images.mean((1, 2, 3)) / 0 * 0
    with pytest.raises(UserError, match="judge, of gate_by, gives nan to an image of"):
        run(model, tmp_path / "run")


def gated(**changes):
    return {"methods": {"rocm-kl": {"beta": 0.1, "gate_by": "aesthetic"} | changes}}


def test_a_gated_cell_uses_its_gates_scorer_and_is_standardised():
    config = make_config(rewards=["hpsv2"], **gated(gate_above=1))
    files = Artefacts(config, "nowhere")
    (cell,) = files.cells.values()
    assert cell.settings.scorers == {"aesthetic": None} and cell.settings.gate_above == 1
    both = files.layout.standards("consistency", "train", ["aesthetic", "hpsv2"])
    assert files.standards(cell.name) == [both]
    (plain,) = make_grid(make_config(rewards=["hpsv2"], methods={"rocm-kl": {"beta": 0.1}}))
    assert not {"gate_by", "gate_above", "scorers"} & plain.settings.to_dict().keys()
    more = (
        training_work(config, cell.settings).scored - training_work(config, plain.settings).scored
    )
    assert more == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (gated(gate_by="hpsv2"), "methods.rocm-kl.gate_by: hpsv2 is what hpsv2 trains on: name a"),
        (gated(gate_by="gold"), "methods.rocm-kl.gate_by: the gold judge has no say"),
        (gated(gate_by=["aesthetics"]), "'aesthetics' is not among the scorers"),
        (gated(gate_by=[]), "methods.rocm-kl.gate_by must be"),
        (
            {"methods": {"rocm-none": {"gate_by": "aesthetic"}}},
            "methods.rocm-none.gate_by has no effect without a divergence: remove it",
        ),
        (
            {"methods": {"rocm-kl": {"beta": 0.1, "gate_above": 1.0}}},
            "methods.rocm-kl.gate_above has no effect without gate_by: remove it",
        ),
        (
            {
                "methods": {
                    "d3po-consistency-kl": {
                        "beta": 0.1,
                        "gate_by": "aesthetic",
                        "images_per_prompt": 2,
                        "batch_size": 2,
                    }
                }
            },
            "gate_by has no effect on d3po: remove it",
        ),
        (
            gated(gate_by="clipscore")
            | {"ensembles": {"hpsv": {"of": {"hpsv2": 1, "aesthetic": 1}}}, "rewards": ["hpsv"]},
            "gate_by compares one scorer with others, and hpsv is an ensemble",
        ),
    ],
)
def test_what_gates_nothing_is_refused(changes, said):
    with pytest.raises(UserError) as error:
        make_grid(make_config(**{"rewards": ["hpsv2"], **changes}))
    assert said in str(error.value)
