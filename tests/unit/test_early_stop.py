"""Stopping early in hindsight: held-out scorers choose a snapshot, and no longer judge it."""

import json
import runpy
import sys

import pandas as pd
import pytest
import tiny
from synthetic import make_config, write_results

import rocm_core.evaluation.snapshots
from rocm_core.analysis import Results, choose_snapshot
from rocm_core.errors import UserError
from rocm_core.evaluation import evaluate_snapshots, score_snapshots
from rocm_core.grid import Artefacts, job_code, made_results, make_grid, state_settings
from rocm_core.plugins import ROOT
from rocm_core.policies import add_adapter, save_lora
from rocm_core.prompts import write_prompts
from rocm_core.provenance import record_beside
from rocm_core.tables.table1 import make as tabulate

STOPPED = {"methods": {"rocm-none": {"stop_by": "aesthetic"}}}


def test_the_snapshot_with_the_largest_merit_is_the_best_and_of_equals_the_first():
    base = {"a": [0.0, 2.0], "b": [10.0, 30.0]}
    scores = {
        0: base,
        10: {"a": [1.0, 3.0], "b": [10.0, 30.0]},
        20: {"a": [1.0, 3.0], "b": [20.0, 40.0]},
        30: {"a": [1.0, 3.0], "b": [20.0, 40.0]},
        40: {"a": [5.0, 7.0], "b": [-40.0, -20.0]},
    }
    choice = choose_snapshot(scores)
    units = pd.DataFrame(base).std()
    assert choice["chosen"] == 20
    assert choice["merits"][20] == pytest.approx((1 / units["a"] + 10 / units["b"]) / 2)
    assert choice["merits"][40] == pytest.approx((5 / units["a"] - 50 / units["b"]) / 2)


def test_worse_than_the_base_still_is_a_snapshot():
    assert choose_snapshot({0: {"a": [1.0]}, 5: {"a": [0.5]}, 9: {"a": [0.2]}})["chosen"] == 5


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_snapshots_are_scored_as_they_are_evaluated(model, monkeypatch, tmp_path, scale):
    for step, size in ((2, 0.1), (4, 0.5)):
        policy = tiny.load_policy("consistency", model, 4, 3.0)
        add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
        tiny.perturb(policy.network, size)
        save_lora(tmp_path / f"snapshots/step-{step}.safetensors", policy.network)
    given = (
        tiny.generation_settings(model=model, lora_scale=scale),
        {"jpeg-compressibility": None, "drifting-hue": None},
        tiny.PROMPTS,
        tmp_path / "snapshots",
    )
    scores = score_snapshots(*given)
    evaluate_snapshots(*given, tmp_path / "evaluated", "f00d")
    rows = pd.read_csv(tmp_path / "evaluated/scores.csv")
    for step, own in scores.items():
        for name, values in own.items():
            known = rows[(rows["step"] == step) & (rows["metric"] == name)]["value"]
            assert values == pytest.approx(known.tolist(), abs=1e-6)
    assert [*scores] == [0, 2, 4] and scores[0] != scores[2] != scores[4]

    class Broken(tiny.Brightness):
        def measure(self, images, prompts):
            return super().measure(images, prompts) * float("nan")

    monkeypatch.setattr(rocm_core.evaluation.snapshots, "load_reward", lambda *_: Broken())
    with pytest.raises(UserError, match="jpeg-compressibility gives a score that is not finite"):
        score_snapshots(*given)


def test_who_chooses_changes_no_training_but_the_images():
    plain, stopped = (
        Artefacts(make_config(rewards=["hpsv2"], **changes), "nowhere")
        for changes in ({"methods": {"rocm-none": {}}}, STOPPED)
    )
    (name,) = stopped.cells
    cell, other = stopped.cells[name], plain.cells[name]
    assert cell.trained_with == other.settings
    assert state_settings(cell.trained_with) == state_settings(other.settings)
    assert job_code("train", cell.settings) == job_code("train", other.settings)
    files = stopped.layout.cell(name)
    assert stopped.lora(name) == files.best and plain.lora(name) == files.lora
    (training,) = (one for one in made_results(stopped, {}) if one.manifest == files.manifest)
    assert training in [*made_results(plain, {})]
    (made,) = (
        one for one in made_results(stopped, {}) if one.manifest == record_beside(files.best)
    )
    assert made.outputs == [files.best, files.choice]
    snapshots = [files.snapshot(step) for step in (10, 20, 30, 40)]
    assert made.inputs == [stopped.layout.prompts("train"), *snapshots]
    assert made.settings["scorers"] == {"aesthetic": None} and made.settings["count"] == 64
    assert not [one for one in made_results(plain, {}) if files.best in one.outputs]


def test_a_trial_of_a_search_is_not_stopped():
    beta = {"search": [0.1, 1.0], "iterations": 10}
    methods = {"rocm-kl": {"beta": beta, "stop_by": "aesthetic"}}
    cells = make_grid(make_config(rewards=["hpsv2"], methods=methods))
    assert {cell.trial: cell.settings.stop_by for cell in cells} == {True: None, False: "aesthetic"}


def test_a_scorer_that_chose_evaluates_nothing(tmp_path):
    methods = {"rocm-none": {}, "rocm-kl": {"beta": 0.1, "stop_by": ["aesthetic"]}}
    config = make_config(rewards=["hpsv2"], methods=methods)
    write_results(tmp_path, config)
    results = Results(config, tmp_path)
    table = tabulate(results).data.set_index(["method", "metric"])["status"]
    assert table["rocm-kl", "aesthetic"] == table["rocm-kl", "hpsv2"] == "trained"
    assert table["rocm-none", "aesthetic"] == table["rocm-kl", "clipscore"] == "measured"
    assert results.used("hpsv2") == {"hpsv2", "aesthetic"}
    stopped, _ = results.sources("hpsv2", "rocm-kl") + results.sources("hpsv2", "rocm-none")
    assert results.lora(stopped).name == "best.safetensors"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stop_by": "hpsv2"}, "methods.rocm-none.stop_by: hpsv2 is what hpsv2 trains on: name a"),
        ({"stop_by": "gold"}, "methods.rocm-none.stop_by: the gold judge has no say in a training"),
        ({"stop_by": ["clip"]}, "methods.rocm-none.stop_by: 'clip' is not among the scorers"),
        (
            {"stop_by": "aesthetic", "snapshot_every": 0},
            "methods.rocm-none.stop_by chooses among snapshots: set snapshot_every above 0",
        ),
    ],
)
def test_what_stops_nothing_is_refused(given, said):
    with pytest.raises(UserError) as error:
        make_grid(make_config(rewards=["hpsv2"], methods={"rocm-none": given}))
    assert said in str(error.value)


def test_one_version_of_a_scorer_does_not_judge_the_other():
    scorers = dict.fromkeys(["gold", "hpsv2", "hpsv2_0", "clipscore"])
    with pytest.raises(UserError, match="stop_by: hpsv2_0 is what hpsv2 trains on"):
        methods = {"rocm-none": {"stop_by": "hpsv2_0"}}
        make_grid(make_config(rewards=["hpsv2"], scorers=scorers, methods=methods))


def test_the_choice_says_who_made_it_and_on_what(model, tmp_path, monkeypatch):
    policy = tiny.load_policy("consistency", model, 4, 3.0)
    add_adapter(policy.network, 2, 6.0, tiny.TARGETS, seed=0)
    for step in (2, 4):
        tiny.perturb(policy.network, 0.2, seed=step)
        save_lora(tmp_path / f"cell/snapshots/step-{step}.safetensors", policy.network)
    prompts = tmp_path / "prompts/train.jsonl"
    write_prompts(prompts, tiny.PROMPTS)
    arguments = {
        "settings": json.dumps(tiny.generation_settings(model=model).to_dict()),
        "scorers": json.dumps({"hinge-redness": None}),
        "prompts": prompts,
        "count": 3,
        "snapshots": tmp_path / "cell/snapshots",
        "output": tmp_path / "cell/best.safetensors",
        "fingerprint": "f00d",
    }
    given = [str(part) for key, value in arguments.items() for part in (f"--{key}", value)]
    monkeypatch.setattr(sys, "argv", ["choose_snapshot.py", *given])
    runpy.run_path(str(ROOT / "workflow/scripts/choose_snapshot.py"))["main"]()
    choice = json.loads((tmp_path / "cell/best.json").read_text())
    assert (choice["by"], choice["prompts"], choice["count"]) == (["hinge-redness"], "train", 3)
    best = max(choice["merits"], key=lambda step: choice["merits"][step])
    assert str(choice["chosen"]) == best and choice["merits"].keys() == {"2", "4"}
    chosen = tmp_path / f"cell/snapshots/step-{best}.safetensors"
    assert (tmp_path / "cell/best.safetensors").read_bytes() == chosen.read_bytes()
    manifest = json.loads((tmp_path / "cell/best.manifest.json").read_text())
    assert manifest["outputs"].keys() == {"best.json", "best.safetensors"}
    assert manifest["inputs"].keys() == {
        "../prompts/train.jsonl",
        "snapshots/step-2.safetensors",
        "snapshots/step-4.safetensors",
    }
