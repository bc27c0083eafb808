"""Several rewards at once: what standardises them, their gradients, and who may still judge."""

import json

import pandas as pd
import pytest
import tiny
import torch
import toy
from synthetic import SPREADS, make_config, write_results

import rocm_core.training.trainer
from rocm_core.algorithms import load_algorithm
from rocm_core.analysis import Results, Trained, choose, evaluators
from rocm_core.configuration import Ensemble
from rocm_core.errors import UserError
from rocm_core.evaluation import generate, measure_base, score_folder
from rocm_core.figures.gold_vs_reward import make as draw
from rocm_core.grid import Artefacts, made_results, make_grid, state_settings
from rocm_core.report.build import read
from rocm_core.tables.table1 import make as tabulate
from rocm_core.training import train
from rocm_core.training.ensemble import EnsembleReward

OF = {"hpsv2": 1.0, "aesthetic": 0.5}
STANDARDS = {"near": {"mean": -2.0, "std": 0.5}, "bright": {"mean": 1.0, "std": 4.0}}


class Bright:
    """x_0, whatever it is near to."""

    name = "bright"
    differentiable = True

    def score(self, images, prompts):
        return images.flatten()


def reward(combine="sum", weights=(1.0, 0.5), **changes):
    of = dict(zip(STANDARDS, weights, strict=True))
    ensemble = Ensemble(of=of, combine=combine, **changes)
    return EnsembleReward(
        "both", ensemble, {"near": toy.Closeness(), "bright": Bright()}, STANDARDS
    )


def gradient(scorer, size=4):
    policy = toy.ToyPolicy(2)
    given = toy.batch(policy, size, torch.Generator().manual_seed(0))
    gradients = toy.Gradients(policy)
    (seen,) = load_algorithm(tiny.settings()).update(policy, scorer, [given], gradients)
    return gradients.steps[0], seen.reward


def test_the_gradient_of_a_sum_is_the_weighted_sum_of_its_members():
    both, scores = gradient(reward())
    (near, nears), (bright, brights) = (gradient(one) for one in (toy.Closeness(), Bright()))
    assert torch.allclose(both, near / 0.5 + 0.5 * bright / 4, atol=1e-12)
    assert torch.allclose(scores, (nears + 2) / 0.5 + 0.5 * (brights - 1) / 4)
    assert not torch.allclose(near, bright)


def test_the_minimum_has_the_gradient_of_the_worst_member_of_each_image():
    images = torch.tensor([0.9, 4.0, -1.0]).double().reshape(3, 1, 1, 1).requires_grad_()
    found = reward("minimum", (1.0, 1.0)).score(images, ["x"] * 3)
    x = images.detach().flatten()
    z = {"near": (-((x - 1) ** 2) + 2) / 0.5, "bright": (x - 1) / 4}
    assert torch.equal(found, torch.minimum(*z.values()))
    (slope,) = torch.autograd.grad(found.sum(), images)
    slopes = zip(z["near"], z["bright"], -2 * (x - 1) / 0.5, strict=True)
    expected = [0.25 if bright < near else steep for near, bright, steep in slopes]
    assert slope.flatten().tolist() == pytest.approx([float(s) for s in expected])
    assert {float(s) == 0.25 for s in expected} == {True, False}


def test_disagreement_costs_standard_deviations_over_the_members():
    images = torch.tensor([0.9, 4.0, 1.7]).double().reshape(3, 1, 1, 1)
    x = images.flatten()
    z = torch.stack([(-((x - 1) ** 2) + 2) / 0.5, (x - 1) / 4])
    for k in (0.0, 2.0):
        found = reward("mean_minus_std", (1.0, 1.0), deviations=k).score(images, ["x"] * 3)
        assert torch.allclose(found, z.mean(0) - k * z.std(0, correction=0), atol=1e-9)
    agreeing = torch.tensor([[[[1.0]]]]).double().requires_grad_()
    alike = reward("mean_minus_std", (1.0, 1.0))
    alike.standards = {"near": {"mean": 0.0, "std": 1.0}, "bright": {"mean": 1.0, "std": 1.0}}
    (slope,) = torch.autograd.grad(alike.score(agreeing, ["x"]).sum(), agreeing)
    assert slope.isfinite().all()  # both score 0: the root of nothing has no slope of its own


def test_a_policy_gradient_learns_from_an_ensemble_too():
    policy = toy.ToyPolicy(2)
    given = toy.batch(policy, 8, torch.Generator().manual_seed(0))
    gradients = toy.Gradients(policy)
    rule = load_algorithm(tiny.settings(algorithm="ppo"))
    (seen,) = rule.update(policy, reward(), [given], gradients)
    assert gradients.steps[0].abs().max() > 0
    assert torch.equal(seen.reward, reward().score(policy_images(policy, given), ["x"] * 8))


def policy_images(policy, given):
    with torch.no_grad():
        return policy.decode(policy.rollout(given.embeddings, given.noise).latents)


@pytest.fixture
def members(monkeypatch):
    known = {"hpsv2": tiny.Brightness(), "aesthetic": tiny.Brightness()}
    monkeypatch.setattr(rocm_core.training.trainer, "load_reward", lambda name, *_: known[name])
    return known


def cell(model, **changes):
    values = {"reward": "both", "ensemble": {"of": OF}, "scorers": dict.fromkeys(OF)}
    return tiny.settings(model=model, iterations=2, **(values | changes))


MEASURED = {"hpsv2": {"mean": 0.5, "std": 0.1}, "aesthetic": {"mean": 0.4, "std": 2.0}}


def test_a_run_records_what_it_was_standardised_by_and_goes_on_by_nothing_else(
    model, members, tmp_path
):
    (tmp_path / "base.json").write_text(json.dumps({"scorers": MEASURED}))
    given = (cell(model), tiny.PROMPTS)
    inputs = [tmp_path / "base.json"]
    train(*given, tmp_path / "run", standards=MEASURED, inputs=inputs)
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["standards"] == MEASURED and "../base.json" in manifest["inputs"]
    with pytest.raises(SystemExit):
        train(*given, tmp_path / "half", standards=MEASURED, stop_after=1)
    others = MEASURED | {"hpsv2": {"mean": 0.6, "std": 0.1}}
    with pytest.raises(UserError, match="made with other standards"):
        train(*given, tmp_path / "half", standards=others)
    train(*given, tmp_path / "half", standards=MEASURED)
    whole, resumed = (tmp_path / name / "lora.safetensors" for name in ("run", "half"))
    assert whole.read_bytes() == resumed.read_bytes()
    with pytest.raises(
        UserError, match="both is standardised by the base's scores by aesthetic, hpsv2"
    ):
        train(*given, tmp_path / "without")


def test_a_member_whose_score_is_not_a_number_ends_the_run_and_is_named(model, members, tmp_path):
    members["aesthetic"].score = lambda images, prompts: images.mean((1, 2, 3)) * float("nan")
    with pytest.raises(
        UserError, match="aesthetic, of the ensemble both, gives nan to an image of"
    ):
        train(cell(model), tiny.PROMPTS, tmp_path / "run", standards=MEASURED)
    assert not (tmp_path / "run/lora.safetensors").exists()


def test_the_base_is_measured_as_its_images_are_scored(model, tmp_path):
    scorers = dict.fromkeys(["jpeg-compressibility", "drifting-hue"])
    settings = tiny.generation_settings(model=model)
    path = tmp_path / "standards/a+b.json"
    measure_base(settings, scorers, tiny.PROMPTS, path, "f00d")
    measured = json.loads(path.read_text())
    generate(settings, tiny.PROMPTS, None, tmp_path / "images", "f00d")
    score_folder(scorers, tmp_path / "images", tmp_path / "scores.csv", "f00d")
    scores = pd.read_csv(tmp_path / "scores.csv").groupby("metric")["value"]
    assert measured["prompts"] == len(tiny.PROMPTS)
    for name in scorers:
        known = measured["scorers"][name]
        assert known["mean"] == pytest.approx(scores.mean()[name], abs=1e-6)
        assert known["std"] == pytest.approx(scores.std(ddof=0)[name], rel=1e-3)
    manifest = json.loads((tmp_path / "standards/a+b.manifest.json").read_text())
    assert manifest["settings"]["scorers"] == scorers and model in manifest["weights"]
    with pytest.raises(UserError, match="hinge-redness cannot be standardised: over the base's"):
        measure_base(settings, {"hinge-redness": None}, tiny.PROMPTS, path, "f00d")  # all score 0


def ensembles(**changes):
    return {"rewards": ["hpsv2", "both"], "ensembles": {"both": {"of": OF} | changes}}


def test_an_ensemble_is_a_reward_like_any_other_whose_base_is_measured_once():
    scorers = {name: f"scorers/{name}" for name in OF}
    config = make_config(**ensembles(), scorers=scorers, seeds=[0, 1])
    files = Artefacts(config, "nowhere")
    plain, both = (files.cells[f"{name}/rocm-kl/seed-1"].settings for name in config.rewards)
    assert plain.ensemble is None and "ensemble" not in plain.to_dict()
    assert both.scorers == scorers and both.scorer is None
    assert {*both.weights} == {"base", "scorers/hpsv2", "scorers/aesthetic"}
    assert "iterations" not in state_settings(both)
    file = files.layout.standards("consistency", "train", ["aesthetic", "hpsv2"])
    assert files.standards("both/rocm-kl/seed-1") == [file]
    assert files.standards("hpsv2/rocm-kl/seed-1") == []
    assert [*files.measured_bases()] == [file]
    (made,) = (one for one in made_results(files, {}) if one.outputs == [file])
    assert made.settings["scorers"] == both.scorers and made.inputs == [
        files.layout.prompts("train")
    ]


def test_without_an_ensemble_a_configuration_is_as_before():
    assert "ensembles" not in make_config().to_dict()
    assert not Artefacts(make_config(), "nowhere").measured_bases()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (ensembles(of={"hpsv2": 1.0}), "ensembles.both.of must be"),
        (ensembles(of={"hpsv2": 1.0, "aesthetics": 1.0}), "'aesthetics' is not among the metrics"),
        (ensembles(of=OF | {"aesthetic": 0}), "ensembles.both.of.aesthetic must be a number"),
        (ensembles(combine="minimum"), "ensembles.both.of: minimum knows no weights: set all to 1"),
        (ensembles(combine="product"), "ensembles.both.combine must be sum or minimum or"),
        (ensembles(deviations=2), "ensembles.both.deviations has no effect on sum: remove it"),
        (ensembles() | {"rewards": ["hpsv2"]}, "ensembles.both is not among the rewards: add it"),
        (ensembles() | {"rewards": ["boht"]}, "rewards: 'boht' is not among the scorers and ensem"),
        ({"ensembles": {"hpsv2": {"of": OF}}}, "ensembles.hpsv2 has the name of a scorer"),
        (
            ensembles(of={"hpsv2": 1.0, "gold": 1.0}),
            "ensembles.both.of: 'gold' is a gold judge and never trains",
        ),
        (
            ensembles(of={"hpsv2": 1.0, "drifting-hue": 1.0})
            | {"scorers": {"hpsv2": "a", "drifting-hue": None}},
            "drifting-hue changes during a training",
        ),
        (
            ensembles(of={"hpsv2": 1.0, "jpeg-compressibility": 1.0})
            | {"scorers": {"hpsv2": "a", "jpeg-compressibility": None}},
            "methods.rocm-none cannot train on both, which has no gradient",
        ),
    ],
)
def test_what_makes_no_ensemble_is_refused(changes, said):
    with pytest.raises(UserError) as error:
        make_grid(make_config(**changes))
    assert said in str(error.value)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    config = make_config(**ensembles())
    write_results(root, config, {("both", "rocm-kl"): {"hpsv2": 0.02, "aesthetic": 0.8}})
    return Results(config, root)


def test_no_member_evaluates_what_was_trained_on_it(results):
    table = tabulate(results).data.set_index(["reward", "method", "metric"])["status"]
    for metric, status in {"hpsv2": "trained", "aesthetic": "trained", "gold": "measured"}.items():
        assert table["both", "rocm-kl", metric] == status
    assert table["hpsv2", "rocm-kl", "aesthetic"] == "measured"
    assert results.used("both") == {*OF} and evaluators(results, "both") == ["gold"]


def test_an_ensembles_own_scores_are_those_of_its_members(results):
    change = results.change("both", "rocm-kl", "both")
    assert change.mean == pytest.approx(0.02 / 0.02 + 0.5 * 0.8 / 0.4, abs=0.3)
    own = draw(results).data.query("reward == 'both' and metric == 'both' and method == 'rocm-kl'")
    assert own["change"].iloc[-1] == pytest.approx(2.0, abs=0.3) and len(own) == 5


@pytest.mark.parametrize("published", [["hpsv2"], ["hpsv2", "hpsv2_0"]])
def test_an_ensemble_is_made_of_the_published_scores_of_its_members(published, tmp_path):
    weights = {"hpsv2": 1.0, "hpsv2_0": 0.5}
    values = ensembles(of=weights) | {"scorers": dict.fromkeys([*weights, "aesthetic"])}
    write_results(tmp_path, make_config(**values))
    for scores in tmp_path.glob("samples/**/validation/*/scores.csv"):
        own = pd.read_csv(scores, dtype={"prompt_id": str})
        own = own[own["metric"].isin(published)]
        # By one standard deviation of the base's scores.
        own["value"] += own["metric"].map(SPREADS)
        own.to_csv(scores.with_name("published.csv"), index=False)
    ours, judged = (
        Results(make_config(**values, **more), tmp_path).final.query("metric == 'both'")
        for more in ({}, {"published": published})
    )
    keys = ["method", "reward", "seed", "prompt_id"]
    both = ours.merge(judged, on=keys, how="outer", validate="1:1", suffixes=("", "_judged"))
    moved = both["value_judged"] - both["value"]
    assert moved.to_numpy() == pytest.approx(sum(weights[name] for name in published))


def test_the_report_reads_an_ensemble_and_counts_no_member_as_held_out(results):
    (reading,) = [r for r in read(results) if (r.trained_on, r.method) == ("both", "rocm-kl")]
    assert reading.phrase.startswith("reward rises")
    assert reading.reward == results.change("both", "rocm-kl", "both")
    others = [m for m in results.config.metrics if m not in {*OF, "gold"}]
    assert sum(reading.held_out.values()) == len(others)


def test_a_search_is_decided_by_those_that_are_not_members_among_what_learned(tmp_path):
    def write(name, **values):
        rows = [f"p{i},{m},{v + i / 10}" for m, v in values.items() for i in range(8)]
        (tmp_path / name).write_text("\n".join(["prompt_id,metric,value", *rows]))
        return tmp_path / name

    base = write("base.csv", hpsv2=0, aesthetic=0, clipscore=0)
    trials = [
        ({"beta": 1.0}, write("held.csv", hpsv2=0.1, aesthetic=0.1, clipscore=0.1)),
        ({"beta": 0.1}, write("learned.csv", hpsv2=1, aesthetic=1, clipscore=-0.2)),
        ({"beta": 0.01}, write("hacked.csv", hpsv2=2, aesthetic=-2, clipscore=-0.9)),
    ]
    standards = {name: {"mean": 0.0, "std": 1.0} for name in OF}
    trained = Trained("both", OF, Ensemble(of=OF), standards)
    choice = choose(trained, trials, base)
    assert choice["metrics"] == ["clipscore"] and choice["chosen"] == {"beta": 0.1}
    assert [t["gain"] for t in choice["trials"]] == pytest.approx([0.15, 1.5, 1.0])
