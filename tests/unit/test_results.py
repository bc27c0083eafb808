import json
import shutil

import numpy as np
import pandas as pd
import pytest
from synthetic import LEVELS, make_config, write_results

from rocm_core.analysis import Results
from rocm_core.errors import UserError
from rocm_core.figures import training
from rocm_core.tables import table1

EFFECTS = {("hpsv2", "rocm-none"): {"hpsv2": 0.05, "gold": -0.3, "squared_distance": 100.0}}


@pytest.fixture
def finished(tmp_path):
    config = make_config(seeds=[0, 1])
    write_results(tmp_path, config, EFFECTS)
    return config, tmp_path


def test_final_scores_cover_bases_cells_seeds_prompts_and_metrics(finished):
    results = Results(*finished)
    scores = 40 * len(finished[0].metrics)
    assert len(results.final) == (1 + 2 * 3 * 2) * scores
    assert results.final["reward"].isna().sum() == scores
    assert results.seeds("hpsv2", "rocm-kl") == 2
    assert results.gaps == []


def test_scores_recover_a_planted_effect_averaged_over_seeds(finished):
    results = Results(*finished)
    change = results.scores("rocm-none", "gold", "hpsv2") - results.scores(
        "base-consistency", "gold"
    )
    assert len(change) == 40
    assert change.mean() == pytest.approx(-0.3, abs=0.03)


def test_the_published_packages_fill_the_columns_of_metrics_with_a_judge(tmp_path):
    config = make_config(published=["hpsv2"])
    write_results(tmp_path, config)
    ours = Results(make_config(), tmp_path).final
    for scores in tmp_path.glob("samples/**/validation/*/scores.csv"):
        own = pd.read_csv(scores, dtype={"prompt_id": str}).query("metric == 'hpsv2'")
        own.assign(value=own["value"] + 1).to_csv(scores.with_name("published.csv"), index=False)
    judged = Results(config, tmp_path).final
    keys = ["method", "reward", "prompt_id", "metric"]
    both = ours.merge(judged, on=keys, how="outer", validate="1:1", suffixes=("", "_judged"))
    moved = both["value_judged"] - both["value"]
    np.testing.assert_allclose(moved, both["metric"] == "hpsv2", atol=1e-9)
    monitor = Results(config, tmp_path).snapshots.query("metric == 'hpsv2'")
    assert monitor["value"].mean() == pytest.approx(LEVELS["hpsv2"], abs=0.02)


def test_monitor_starts_at_the_base_and_adds_kl_as_half_the_squared_distance(finished):
    snapshots = Results(*finished).snapshots
    assert sorted(snapshots["step"].unique()) == [0, 10, 20, 30, 40]
    last = snapshots[(snapshots["step"] == 40) & (snapshots["reward"] == "hpsv2")]
    last = last[last["method"] == "rocm-none"].groupby("metric")["value"].mean()
    assert last["squared_distance"] == pytest.approx(100) and last["kl"] == pytest.approx(50)


def test_histories_keep_the_batch_reward_beside_the_name_of_the_training_reward(finished):
    histories = Results(*finished).histories
    assert len(histories) == 2 * 3 * 2 * 40
    assert set(histories["reward"]) == {"hpsv2", "aesthetic"}
    assert histories["mean_reward"].iloc[0] == pytest.approx(0.301)


def test_swept_methods_are_listed_only_when_asked_for():
    sweep = {"rewards": ["hpsv2"], "methods": ["rocm-kl"], "setting": "beta", "values": [0.01]}
    results = Results(make_config(sweeps=[sweep]), "nowhere")
    assert results.methods() == ["rocm-none", "rocm-kl", "rocm-js"]
    assert results.methods("hpsv2", sweeps=True)[-1] == "rocm-kl--beta-0.01"
    assert "rocm-kl--beta-0.01" not in results.methods("aesthetic", sweeps=True)
    assert results.base_of("hpsv2", "rocm-kl--beta-0.01") == "base-consistency"


def test_a_source_knows_what_its_method_stands_for_and_how_it_reads():
    sweep = {"methods": ["rocm-kl"], "setting": "beta", "values": [0.01]}
    methods = {"rocm-kl": {"beta": 0.1}, "rlcm": {}, "rocm-total-variation": {"beta": 1}}
    results = Results(make_config(sweeps=[sweep], methods=methods), "nowhere")
    swept, rlcm = results.models["rocm-kl--beta-0.01"], results.models["rlcm"]
    assert (swept.family, swept.swept) == ("rocm-kl", {"beta": 0.01})
    assert swept.is_rocm and swept.divergence == "kl" and swept.policy == "consistency"
    assert (rlcm.algorithm, rlcm.is_rocm, rlcm.swept) == ("ppo", False, {})
    base = results.models["base-consistency"]
    assert (base.family, base.algorithm, base.cell) == ("base-consistency", None, None)
    assert results.label(swept.method) == "ROCM, KL (beta 0.01)"
    assert results.label("rocm-total-variation", short=True) == "total variation"
    assert (
        results.label("rlcm") == "RLCM" and results.label(base.name) == "Base (consistency model)"
    )


def test_algorithms_and_ensembles_have_names_to_read():
    policies = {
        name: {"model": name, "chain": chain, "steps": 4, "guidance_scale": 1.0}
        for name, chain in (("consistency", "lcm"), ("flow", "flow"))
    }
    own = {"images_per_prompt": 2, "batch_size": 2}
    methods = {
        "grpo-flow-kl": {"beta": 0.1} | own,
        "grpo-consistency": own,
        "rebel-consistency": own,
        "hybrid-flow": own,
    }
    ensembles = {
        "both": {"of": {"hpsv2": 1, "aesthetic": 2}},
        "careful": {"of": {"hpsv2": 1, "aesthetic": 1}, "combine": "mean_minus_std"},
    }
    config = make_config(
        policies=policies,
        methods=methods,
        ensembles=ensembles,
        rewards=["both", "careful", "hpsv2"],
    )
    results = Results(config, "nowhere")
    assert [results.label(method) for method in methods] == [
        *("GRPO, KL (flow)", "GRPO", "REBEL", "hybrid (flow)")
    ]
    assert [results.reward_label(reward) for reward in results.rewards] == [
        "both (sum of HPSv2, 2 × Aesthetic)",
        "careful (mean less SD of HPSv2, Aesthetic)",
        "HPSv2",
    ]


def test_missing_scores_are_an_error_that_names_the_file(finished):
    config, root = finished
    path = root / "samples/hpsv2/rocm-kl/seed-1/validation/steps-4/scores.csv"
    path.unlink()
    with pytest.raises(UserError, match="rocm-kl/seed-1/validation/steps-4/scores.csv does not"):
        _ = Results(config, root).final


def test_partial_lists_what_is_missing_and_uses_the_rest(finished):
    _, root = finished
    path = "samples/hpsv2/rocm-kl/seed-1/validation/steps-4/scores.csv"
    (root / path).unlink()
    results = Results(make_config(seeds=[0, 1], partial=True), root)
    assert results.gaps == [path]
    assert results.seeds("hpsv2", "rocm-kl") == 1
    assert len(results.scores("rocm-kl", "gold", "hpsv2")) == 40


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a readable CSV"),
        ("prompt_id,metric\np0000,gold\n", "no column value"),
        ("prompt_id,metric,value\np0000,gold,nan\n", "not finite"),
    ],
)
def test_broken_scores_are_an_error_that_names_file_and_reason(finished, text, reason):
    config, root = finished
    path = root / "samples/base-consistency/validation/steps-4/scores.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=f"scores.csv .*{reason}"):
        _ = Results(config, root).final


def test_a_metric_that_was_never_scored_is_an_error(finished):
    config, root = finished
    wider = make_config(seeds=[0, 1], scorers={**config.scorers, "pickscore": None})
    with pytest.raises(UserError, match="rocm-kl in .* lack pickscore"):
        Results(wider, root).scores("rocm-kl", "pickscore", "hpsv2")


def test_a_broken_manifest_is_an_error_that_names_it(finished):
    config, root = finished
    path = root / "cells/hpsv2/rocm-js/seed-0/manifest.json"
    assert json.loads(path.read_text()) == Results(*finished).manifests["hpsv2/rocm-js/seed-0"]
    for broken, fault in (("{", "valid JSON"), ("[]", "a JSON object")):
        path.write_text(broken)
        with pytest.raises(UserError, match=f"rocm-js/seed-0/manifest.json is not {fault}"):
            _ = Results(config, root).manifests


def test_prompt_ids_of_digits_keep_their_zeros(finished):
    config, root = finished
    path = root / "samples/base-consistency/validation/steps-4/scores.csv"
    path.write_text(path.read_text().replace("p0", "00"))
    base = Results(config, root).scores("base-consistency", "gold")
    assert base.index[0] == "00000"


LOOKALIKES = ["NA", "null", "nan", "None", "1e5", "007", "True", "inf", "7", "1.50", "N.A", "0x1F"]


def test_an_id_is_text_whatever_it_looks_like(tmp_path):
    config = make_config()
    write_results(tmp_path / "plain", config, {("hpsv2", "rocm-kl"): {"gold": 0.2}})
    shutil.copytree(tmp_path / "plain", tmp_path / "named")
    for path in [*(tmp_path / "named").rglob("*.csv"), *(tmp_path / "named").rglob("*.jsonl")]:
        text = path.read_text()
        for number, name in enumerate(LOOKALIKES):
            text = text.replace(f"p{number:04d}", name)
        path.write_text(text)
    plain, named = (Results(config, tmp_path / name) for name in ("plain", "named"))
    new = {f"p{number:04d}": name for number, name in enumerate(LOOKALIKES)}
    for frame in ("final", "readouts", "snapshots"):
        before, after = (getattr(results, frame) for results in (plain, named))
        pd.testing.assert_frame_equal(
            before.assign(prompt_id=before["prompt_id"].replace(new)), after
        )
    drawn = ["change_low", "change_high"]  # by a bootstrap, in the order of the ids
    for made in (table1.make, training.make):
        before, after = (made(r).data.drop(columns=drawn, errors="ignore") for r in (plain, named))
        pd.testing.assert_frame_equal(before, after)
    assert {prompt.id for prompt in named.prompts} > set(LOOKALIKES)


@pytest.mark.parametrize("value", ["abc", "1_000", "True", "0x1F", "--1"])
def test_a_number_that_is_none_is_refused_by_its_column(value, tmp_path):
    write_results(tmp_path, make_config())
    for place, column in (
        ("history.csv", "training_seconds"),
        ("validation/**/scores.csv", "value"),
    ):
        path = min(tmp_path.glob(f"*/hpsv2/rocm-kl/seed-0/**/{place}"))
        frame = pd.read_csv(path, dtype=str)
        frame.loc[1:, column] = value
        frame.to_csv(path, index=False)
    results = Results(make_config(), tmp_path)
    with pytest.raises(
        UserError, match="history.csv holds a training_seconds that is not finite or not a"
    ):
        _ = results.histories
    with pytest.raises(UserError, match="scores.csv holds a value that is not finite or not a"):
        _ = results.final
