"""The ledger asks what tames reward hacking, and what transfers to another generator."""

import pytest
from synthetic import make_config, verdict_on, write_results

from rocm_core.analysis import Results
from rocm_core.claims._evidence import Evidence
from rocm_core.claims._verdict import CONFIRMED, NO_DIFFERENCE, NOT_TESTED, REFUTED


def contest(**changes):
    """A search of three trials each, a contestant of two kinds, and snapshots of all."""
    search = {"search": [0.01, 0.1, 1.0], "iterations": 10}
    rate = {"search": [1e-4, 1e-3, 1e-2], "iterations": 10}
    values = {
        "rewards": ["hpsv2"],
        "methods": {
            "rocm-none": {"learning_rate": rate},
            "rocm-kl": {"beta": search},
            "rlcm": {"learning_rate": rate},
            "rebel-consistency": {"learning_rate": rate, "images_per_prompt": 2, "batch_size": 2},
        },
        "sweeps": [
            {"methods": ["rocm-kl"], "setting": "reference_reset", "values": [10]},
            {"methods": ["rocm-none"], "setting": "stop_by", "values": ["aesthetic"]},
        ],
        "seeds": [0, 1, 2],
    }
    return make_config(**(values | changes))


@pytest.mark.parametrize(("gold", "verdict"), [(0.3, CONFIRMED), (-0.3, REFUTED)])
def test_a_contestant_that_keeps_the_gold_beats_no_divergence_stopped_early(
    tmp_path, gold, verdict
):
    config = contest()
    tamed = {"hpsv2": 0.03, "gold": gold, "clipscore": 0.01}
    hacked = {"hpsv2": 0.06, "gold": 0.0, "clipscore": -0.01}
    others = ("rebel-consistency", "rocm-none--stop_by-aesthetic")
    effects = {("hpsv2", "rocm-none"): hacked, ("hpsv2", "rocm-kl--reference_reset-10"): tamed}
    effects |= {("hpsv2", name): hacked | {"gold": min(gold, 0.0)} for name in others}
    write_results(tmp_path, config, effects)
    contending = {
        "REBEL − no divergence",
        "ROCM, KL (reference_reset 10) − no divergence",
        "ROCM, no divergence (stop_by aesthetic) − no divergence",
    }
    for claim in ("Q4a", "Q4b", "Q4c"):
        found = verdict_on(claim, tmp_path, config)
        assert found.verdict == verdict, (claim, found)
        # At equal reward, stop_by would be compared with the same training.
        left_out = {label for label in contending if claim == "Q4a" and "stop_by" in label}
        assert {finding.part.label for finding in found.findings} == contending - left_out


@pytest.mark.parametrize("other", [0.6, -0.6])
def test_a_contestant_is_judged_by_its_mean_over_rewards(tmp_path, other):
    """Two rewards are one part, not two chances."""
    config = contest(rewards=["hpsv2", "aesthetic"], sweeps=[])
    hacked = {"hpsv2": 0.06, "aesthetic": 0.06, "gold": 0.0}
    effects = {(reward, "rocm-none"): hacked for reward in config.rewards}
    effects |= {("hpsv2", "rebel-consistency"): hacked | {"gold": 0.4}}
    effects |= {("aesthetic", "rebel-consistency"): hacked | {"gold": other}}
    write_results(tmp_path, config, effects)
    for claim in ("Q4a", "Q4b", "Q4c"):
        found = verdict_on(claim, tmp_path, config)
        assert len(found.findings) == 1
        assert found.verdict == (CONFIRMED if other > 0 else REFUTED), (claim, found)


def test_both_stop_at_equal_nfe_and_the_control_alone_after_an_equal_search(tmp_path):
    """The same training twice, which loses the more the longer it is."""
    config = contest(sweeps=[])
    losing = {"hpsv2": 0.06, "gold": -0.4, "clipscore": -0.1}
    both = ("rocm-none", "rebel-consistency")
    write_results(tmp_path, config, {("hpsv2", method): losing for method in both})
    verdicts = [verdict_on(claim, tmp_path, config).verdict for claim in ("Q4b", "Q4c")]
    assert verdicts == [NO_DIFFERENCE, REFUTED]


def test_what_may_have_stopped_beyond_the_equal_nfe_is_left_out(tmp_path):
    """A longer training, of which nobody says at which step `stop_by` ended it."""
    methods = contest().model_dump()["methods"]
    methods["rocm-kl"] |= {"iterations": 80}
    stopped = [{"methods": ["rocm-kl"], "setting": "stop_by", "values": ["aesthetic"]}]
    config = contest(methods=methods, sweeps=stopped)
    write_results(tmp_path, config)
    missing = {f.part.label: f.part.missing for f in verdict_on("Q4b", tmp_path, config).findings}
    label = "ROCM, KL (stop_by aesthetic) − no divergence"
    assert missing.pop(label).startswith("ROCM, KL (stop_by aesthetic) trained on HPSv2 may have")
    assert set(missing.values()) == {None}


@pytest.mark.parametrize("shorter", ["rocm-none", "rebel-consistency"])
def test_at_equal_reward_it_does_not_count_where_the_snapshots_lie(tmp_path, shorter):
    """The same training with snapshots at 10 and 20 steps, and with a single one at 40."""
    methods = {"rocm-none": {}, "rebel-consistency": {"images_per_prompt": 2, "batch_size": 2}}
    for method, settings in methods.items():
        steps = (20, 10) if method == shorter else (40, 40)
        settings |= dict(zip(("iterations", "snapshot_every"), steps, strict=True))
    config = contest(methods=methods, sweeps=[], snapshots={"prompts": 40}, seeds=[*range(6)])
    whole = {"hpsv2": 0.08, "gold": -0.4}
    half = {metric: effect / 2 for metric, effect in whole.items()}
    effects = {("hpsv2", method): half if method == shorter else whole for method in methods}
    write_results(tmp_path, config, effects)
    found = verdict_on("Q4a", tmp_path, config)
    assert found.verdict == NO_DIFFERENCE, found


def test_an_ensemble_contends_with_the_members_that_are_trained_on(tmp_path):
    config = contest(
        rewards=["hpsv2", "aesthetic", "all"],
        ensembles={"all": {"of": {"hpsv2": 1, "aesthetic": 1, "hpsv2_0": 1}}},
        scorers=dict.fromkeys(["gold", "hpsv2", "hpsv2_0", "aesthetic", "clipscore"]),
        methods={"rocm-none": contest().methods["rocm-none"]},
        sweeps=[],
    )
    write_results(tmp_path, config, {("all", "rocm-none"): {"gold": 0.3}})
    for claim in ("Q4b", "Q4c"):
        found = verdict_on(claim, tmp_path, config)
        assert found.verdict == CONFIRMED, (claim, found)
        assert [finding.part.label for finding in found.findings] == [
            "all − its members, no divergence"
        ]
    assert verdict_on("Q4a", tmp_path, config).verdict == NOT_TESTED


def test_without_a_gold_judge_nothing_judges_an_ensemble_and_its_members_alike():
    config = contest(
        rewards=["hpsv2", "both"],
        ensembles={"both": {"of": {"hpsv2": 1, "aesthetic": 1}}},
        metrics=["hpsv2", "aesthetic", "clipscore"],
        sweeps=[],
        methods={"rocm-none": {}},
    )
    assert verdict_on("Q4b", "nowhere", config).verdict == NOT_TESTED


def test_a_setting_against_hacking_is_not_a_try_of_its_methods_search(tmp_path):
    """Nor a lower learning rate of the control, nor another weight of the divergence."""
    tricks = [
        {"methods": ["rocm-none"], "setting": "truncate", "values": [1, 2]},
        {"methods": ["rocm-kl"], "setting": "reference_reset", "values": [10, 20]},
    ]
    rates = [{"methods": ["rocm-none"], "setting": "learning_rate", "values": [1e-4]}]
    methods = {"rocm-none": {}, "rocm-kl": {"beta": 0.1}}
    config = contest(methods=methods, sweeps=tricks + rates)
    evidence = Evidence(Results(config, tmp_path))
    tried = evidence.methods("hpsv2", methods)
    assert tried == ["rocm-none", "rocm-kl", "rocm-none--learning_rate-0.0001"]
    write_results(tmp_path, config)
    assert verdict_on("Q1a", tmp_path, config).verdict == NOT_TESTED


def test_a_contestant_of_another_search_is_not_compared_after_equal_search(tmp_path):
    shorter = {"search": [1e-4, 1e-2], "iterations": 10}
    methods = contest().model_dump()["methods"]
    config = contest(methods=methods | {"rocm-none": {"learning_rate": shorter}})
    write_results(tmp_path, config)
    found = verdict_on("Q4c", tmp_path, config)
    assert {f.part.missing for f in found.findings if "reset" in f.part.label} == {
        "no search of ROCM, KL trained on HPSv2 and as long a one of ROCM, no divergence trained"
        " on HPSv2"
    }


def test_without_contestants_there_is_no_contest(tmp_path):
    config = make_config()
    write_results(tmp_path, config)
    for claim in ("Q4a", "Q4b", "Q4c", "Q5"):
        assert verdict_on(claim, tmp_path, config).verdict == NOT_TESTED


def test_rebel_is_compared_with_ppo_on_what_both_train_on(tmp_path):
    config = contest()
    effects = {("hpsv2", "rebel-consistency"): {"hpsv2": 0.05}, ("hpsv2", "rlcm"): {"hpsv2": 0.02}}
    write_results(tmp_path, config, effects)
    assert verdict_on("Q5", tmp_path, config).verdict == CONFIRMED


GENERATORS = {
    "policies": {
        name: {"model": name, "chain": chain, "steps": 4, "guidance_scale": 1.0}
        for name, chain in (("consistency", "lcm"), ("flow", "flow"))
    },
    "rewards": ["hpsv2"],
    "methods": {
        "rocm-none": {},
        "rocm-kl": {"beta": 0.05},
        "rlcm": {},
        "direct-flow": {},
        "direct-flow-kl": {"beta": 0.05},
        "ppo-flow": {},
    },
    "seeds": [0, 1, 2],
}


@pytest.mark.parametrize(
    ("learned", "kept", "verdicts"),
    [
        (0.03, 0.3, (CONFIRMED, CONFIRMED)),
        (-0.03, 0.3, (REFUTED, CONFIRMED)),
        (0.03, -0.3, (CONFIRMED, REFUTED)),
    ],
)
def test_what_transfers_must_hold_on_every_generator(tmp_path, learned, kept, verdicts):
    config = make_config(**GENERATORS)
    effects = {("hpsv2", method): {"hpsv2": 0.03, "gold": 0.0} for method in config.methods}
    effects["hpsv2", "rocm-kl"] = {"hpsv2": 0.03, "gold": 0.3}
    effects["hpsv2", "direct-flow-kl"] = {"hpsv2": 0.03, "gold": kept}
    effects["hpsv2", "ppo-flow"] = {"hpsv2": learned}
    write_results(tmp_path, config, effects)
    found = [verdict_on(claim, tmp_path, config) for claim in ("Q6a", "Q6b")]
    assert tuple(one.verdict for one in found) == verdicts
    assert [f.part.label for f in found[0].findings] == [
        "HPSv2, consistency: ROCM, no divergence − base",
        "HPSv2, consistency: ROCM, KL − base",
        "HPSv2, consistency: RLCM − base",
        "HPSv2, flow: ROCM, no divergence − base",
        "HPSv2, flow: ROCM, KL − base",
        "HPSv2, flow: RLCM − base",
    ]
    assert len(found[1].findings) == 2


WITHOUT_RLCM = {m: settings for m, settings in GENERATORS["methods"].items() if m != "rlcm"}


@pytest.mark.parametrize("trained", [{}, GENERATORS | {"methods": WITHOUT_RLCM}])
def test_one_generator_shows_no_transfer_nor_do_two_with_unequal_methods(tmp_path, trained):
    config = make_config(**trained)
    write_results(tmp_path, config)
    for claim in ("Q6a", "Q6b"):
        assert verdict_on(claim, tmp_path, config).verdict == NOT_TESTED
