"""The claims ledger finds what was planted in synthetic results, and says what it cannot decide."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import verdicts
from synthetic import FOUR, SPREADS, make_config, make_wide_config, verdict_on, write_results

from rocm_core.analysis import (
    MARGIN,
    Comparison,
    Estimate,
    Results,
    coarsely,
    compare,
    comparison,
    unregularised,
)
from rocm_core.claims import CLAIMS, make
from rocm_core.claims._evidence import Evidence
from rocm_core.claims._papers import STATED
from rocm_core.claims._verdict import (
    CONFIRMED,
    DIFFERENT,
    FACTOR,
    FAILS,
    HOLDS,
    LITTLE,
    MORE,
    NO_DIFFERENCE,
    NOT_LESS,
    NOT_TESTED,
    ONE_TRAINING,
    REFUTED,
    UNDECIDED,
    VERDICTS,
    Claim,
    Finding,
    Part,
    at_least,
    decide,
    every,
    first,
)
from rocm_core.claims._write import details_of, record
from rocm_core.commands.render import render
from rocm_core.errors import UserError
from rocm_core.grid import base_runs, make_grid
from rocm_core.plugins import ROOT, names

POLICIES = {
    "consistency": {"model": "base", "steps": 4, "guidance_scale": 3.0},
    "diffusion": {"model": "teacher", "steps": 10, "guidance_scale": 3.0},
}


def decided(findings, rule):
    return decide(Claim("x", "text", "test", "needs", rule, lambda _: findings), None).verdict


def planted(shift, expects, seed=0):
    generator = np.random.default_rng(seed)
    control = generator.normal(size=(3, 200))
    treated = control + shift + generator.normal(0, 0.2, size=(3, 200))
    return Part("planted", expects, compare(treated, control))


def test_the_page_about_claims_lists_them_as_they_are():
    page = (ROOT / "docs/claims.md").read_text()
    rows = [f"| {claim.id} | {claim.text} | {STATED[claim.id].where} |" for claim in CLAIMS]
    assert "\n".join(rows) in page


@pytest.mark.parametrize(
    ("shift", "expects", "verdict"),
    [
        (+0.5, MORE, CONFIRMED),
        (0.0, MORE, NO_DIFFERENCE),
        (0.0, DIFFERENT, NO_DIFFERENCE),
        (+0.5, DIFFERENT, CONFIRMED),
        (-0.5, DIFFERENT, CONFIRMED),
        (-0.5, MORE, REFUTED),
        (+0.5, NOT_LESS, CONFIRMED),
        (0.0, NOT_LESS, CONFIRMED),
        (-0.5, NOT_LESS, REFUTED),
        (0.0, LITTLE, CONFIRMED),
        (+0.5, LITTLE, REFUTED),
        (-0.5, LITTLE, CONFIRMED),
    ],
)
def test_a_planted_win_tie_or_loss_is_found(shift, expects, verdict):
    assert decided([planted(shift, expects)], every) == verdict


def test_a_loss_within_the_margin_is_no_less():
    """However sure it is that it is one: the margin says what counts."""
    part = planted(-0.05, NOT_LESS)
    assert part.comparison.p < 0.05 and -0.2 < part.comparison.effect.low
    assert decided([part], every) == CONFIRMED
    assert decided([planted(-0.3, NOT_LESS)], every) == REFUTED


def test_one_of_many_is_not_called_no_less_by_chance():
    """All are worse by the margin: that one of sixteen seems not to be is to be expected."""
    generator = np.random.default_rng(0)
    found = {1: 0, 16: 0}
    with coarsely(1000):
        for _ in range(60):
            base = generator.normal(size=(16, 1, 100))
            worse = base - MARGIN + generator.normal(0, 0.3, base.shape)
            pairs = zip(worse, base, strict=True)
            parts = [Part("planted", NOT_LESS, compare(*pair)) for pair in pairs]
            for count in found:
                found[count] += decided(parts[:count], at_least(1)) == CONFIRMED
    assert all(share <= 7 for share in found.values()), found  # 3 are expected, and 24 uncorrected


def test_a_tie_is_neither_won_nor_lost():
    """The interval decides, not the sign of the mean: no part of it may reach the margin."""

    def of(low, mean, high, p=0.5, effect=True):
        shown = Estimate(mean, low, high, 50)
        comparison = Comparison(shown, shown if effect else None, None, p, 3)
        return Part("planted", MORE, comparison)

    assert decided([of(-0.078, +0.007, +0.086)], first) == NO_DIFFERENCE
    assert decided([of(-0.086, -0.007, +0.078)], first) == NO_DIFFERENCE
    for low, high in ((-0.19, 0.21), (-0.21, 0.19), (-0.5, 0.1), (-0.1, 0.5)):
        assert decided([of(low, (low + high) / 2, high)], first) == UNDECIDED
    assert decided([of(-0.01, 0.0, 0.01, effect=False)], first) == UNDECIDED  # no margin to keep to
    assert decided([of(+0.02, +0.05, +0.08, p=0.001)], first) == CONFIRMED
    assert decided([of(-0.08, -0.05, -0.02, p=0.001)], first) == REFUTED


def test_rules_count_ties():
    win, tie, loss = (planted(shift, MORE) for shift in (0.5, 0.0, -0.5))
    gap = Part("gap", MORE, None, missing="cell a/b/seed-0 missing")
    assert decided([win, tie], every) == NO_DIFFERENCE
    assert decided([win, tie, loss], every) == REFUTED
    assert decided([tie, gap], every) == UNDECIDED
    assert decided([tie, tie], at_least(1)) == NO_DIFFERENCE
    assert decided([tie, loss], at_least(1)) == REFUTED
    assert decided([tie, gap], at_least(1)) == UNDECIDED
    assert decided([tie, win], at_least(1)) == CONFIRMED
    same = decide(Claim("x", "text", "test", "needs", every, lambda _: [tie, win]), None)
    assert same.reason == "within ± 0.2 SD; 2 parts: 1 holds, 1 ties"
    assert same.decisive.outcome == "ties"


def test_what_only_the_correction_leaves_open_is_said_so():
    def of(p, low):
        shown = Estimate(0.17, low, 0.22, 50)
        return Part("planted", MORE, Comparison(shown, shown, None, p, 3))

    def told(*parts):
        return decide(Claim("x", "text", "test", "needs", at_least(1), lambda _: parts), None)

    assert told(of(0.03, 0.12)).verdict == CONFIRMED
    corrected = told(of(0.03, 0.12), of(0.6, -0.1), of(0.7, -0.1))
    assert (corrected.verdict, corrected.decisive.p_corrected) == (UNDECIDED, pytest.approx(0.09))
    assert corrected.reason.startswith(
        "not significant after correction for 3 comparisons; 3 parts"
    )
    assert told(of(0.6, -0.1), of(0.7, -0.1)).reason.startswith("an interval leaves it open")


def test_a_p_value_below_the_level_is_never_rounded_onto_it():
    shown = Estimate(0.1, 0.0001, 0.2, 50)
    near, at = (
        details_of(Finding(Part("x", MORE, Comparison(shown, shown, None, p, 3)), None, "holds"))
        for p in (0.0499, 0.0501)
    )
    assert "p < 0.05" in near and "p 0.05;" in at


def test_a_corrected_p_value_stands_behind_the_one_that_it_corrects():
    """A part that expects no loss has two; a rule that needs every part corrects that of a loss."""
    both = Comparison(Estimate(0.01, -0.02, 0.04, 50), None, None, 0.5, 3, p_margin=0.01)
    part = Part("x", NOT_LESS, both)
    told = [details_of(Finding(part, 0.06, "holds", which)) for which in (HOLDS, FAILS)]
    assert told[0].startswith("p 0.50; p of a loss of 0.2 SD 0.01; corrected 0.06;"), told[0]
    assert told[1].startswith("p 0.50; corrected 0.06; p of a loss of 0.2 SD 0.01;"), told[1]


def test_what_the_configuration_lacks_is_not_tested_and_what_is_not_there_yet_is_open():
    lacking = Part("a", MORE, None, missing="no gold judge", configured=False)
    absent = Part("b", MORE, None, missing="cell a/b/seed-0 missing")
    for rule in (every, first, at_least(1)):
        assert decided([lacking], rule) == decided([lacking, lacking], rule) == NOT_TESTED
        assert decided([absent], rule) == decided([absent, lacking], rule) == UNDECIDED
    several = [Part("c", MORE, None, missing=f"no {scorer}") for scorer in ("HPSv2", "CLIPScore")]
    told = decide(Claim("x", "text", "test", "a thing", every, lambda _: several), None)
    assert told.reason == "no HPSv2, and 1 more gap; 2 parts: 2 missing"
    nothing = decide(Claim("x", "text", "test", "a thing", every, lambda _: []), None)
    assert (nothing.verdict, nothing.reason) == (NOT_TESTED, "needs a thing")


def test_noise_with_few_prompts_decides_nothing():
    generator = np.random.default_rng(2)
    scores = generator.normal(size=(2, 2, 12))
    part = Part("noise", MORE, compare(scores[0], scores[1]))
    assert decided([part], every) == decided([part], first) == UNDECIDED


def test_rules_count_parts():
    win, loss = planted(0.5, MORE), planted(-0.5, MORE)
    gap = Part("gap", MORE, None, missing="cell a/b/seed-0 missing")
    assert decided([win, loss], every) == REFUTED
    assert decided([win, gap], every) == UNDECIDED
    assert decided([loss, gap], every) == REFUTED
    assert decided([win, loss], at_least(1)) == CONFIRMED
    assert decided([win, loss], at_least(2)) == REFUTED
    assert decided([win, gap, loss], at_least(2)) == UNDECIDED
    assert decided([win, loss], first) == CONFIRMED
    assert decided([gap, win], first) == UNDECIDED


def test_a_verdict_that_needs_all_parts_is_not_corrected_and_one_that_needs_one_is():
    """p = 0.03 in each of three parts: 0.09 and more after the correction."""
    for sign, rule, verdict in (
        (+1, every, CONFIRMED),
        (-1, every, UNDECIDED),
        (+1, at_least(1), UNDECIDED),
        (-1, at_least(1), REFUTED),
        (+1, at_least(2), UNDECIDED),
        (+1, first, CONFIRMED),
        (-1, first, REFUTED),
    ):
        low, mean, high = sorted(sign * end for end in (0.05, 0.4, 0.75))
        shown = Estimate(mean, low, high, 50)
        part = Part("p", NOT_LESS, Comparison(shown, None, None, 0.03, 1))
        assert decided([part] * 3, rule) == verdict


def test_many_null_parts_are_corrected_for_their_number(monkeypatch):
    """Uncorrected, forty parts without an effect would confirm `at least one` two times in three;
    one-sided, and corrected, they may one time in forty."""
    monkeypatch.setattr(comparison, "RESAMPLES", 4000)
    generator = np.random.default_rng(3)
    scores = generator.normal(size=(2, 50, 40, 1, 50))
    confirmed = 0
    for family in range(50):
        pairs = zip(scores[0, family], scores[1, family], strict=True)
        parts = [Part("null", MORE, compare(*pair)) for pair in pairs]
        confirmed += decided(parts, at_least(1)) == CONFIRMED
    assert confirmed <= 5


# --- from results


def effects(**by_method):
    """The same effects on both rewards."""
    return {(r, m): e for r in ("hpsv2", "aesthetic") for m, e in by_method.items()}


def tuned(*rates, betas=(1.0,), methods=("rocm-kl", "rocm-js")):
    """Sweeps that give the control and the divergences something to choose from."""
    return [
        {"methods": ["rocm-none"], "setting": "learning_rate", "values": list(rates or (1e-3,))},
        {"methods": list(methods), "setting": "beta", "values": list(betas)},
    ]


@pytest.fixture(scope="module")
def stopping(tmp_path_factory):
    """Without a divergence the judge falls from the first snapshot on; KL holds it, JS does not.

    The scorers that are not trained on follow the judge.
    """

    def all_metrics(by):
        return {
            "gold": by * 0.15,
            "clipscore": by * 0.03,
            "hpsv2": by * 0.02,
            "aesthetic": by * 0.4,
        }

    config = make_config(
        seeds=[0, 1, 2],
        prompts={
            "train": {"source": "shapes", "count": 64, "seed": 1},
            "validation": {"source": "shapes", "count": 80, "seed": 2},
        },
        snapshots={"prompts": 80},
        sweeps=tuned(),
    )
    planted = effects(
        **dict.fromkeys(("rocm-none", "rocm-none--learning_rate-0.001"), all_metrics(-4.0)),
        **dict.fromkeys(("rocm-kl", "rocm-kl--beta-1"), all_metrics(+3.0)),
        **dict.fromkeys(("rocm-js", "rocm-js--beta-1"), all_metrics(-4.0)),
    )
    root = tmp_path_factory.mktemp("stopping")
    write_results(root, config, planted)
    return root, config


def test_a_divergence_that_holds_the_judge_beats_stopping_early(stopping):
    found = verdict_on("Q1a", *stopping)
    parts = {f.part.label: f for f in found.findings}
    kl = parts["HPSv2: ROCM, KL − control"]
    # The control is stopped at its first snapshot, a quarter of the way: -1 against +3.
    assert kl.outcome == "holds"
    assert kl.part.comparison.difference.mean == pytest.approx(4 * 0.15, abs=0.05)
    # Trained to the end JS is at -4, stopped as early as the control at -1.
    js = parts["HPSv2: ROCM, JS − control"]
    assert js.outcome == "fails"
    assert js.part.comparison.difference.mean == pytest.approx(-3 * 0.15, abs=0.05)
    assert js.part.comparison.seeds == 3 and js.part.comparison.difference.n == 80
    stopped = {f.part.label: f for f in verdict_on("Q1b", *stopping).findings}
    js = stopped["HPSv2: ROCM, JS − control"]
    assert js.part.comparison.difference.mean == pytest.approx(0.0, abs=0.05)


def test_the_pooled_part_is_the_mean_of_the_others(stopping):
    found = verdict_on("Q1a", *stopping)
    mean, *parts = (f.part.comparison.effect.mean for f in found.findings)
    assert mean == pytest.approx(np.mean(parts), abs=0.02)
    assert found.decisive is found.findings[0]


def test_one_divergence_beats_another_or_ties(stopping, tmp_path):
    assert verdict_on("Q2", *stopping).verdict == CONFIRMED
    validation = {"source": "shapes", "count": 200, "seed": 2}
    config = make_config(
        prompts={"train": {"source": "shapes", "count": 64}, "validation": validation},
        sweeps=tuned(),
    )
    alike = ("rocm-kl", "rocm-kl--beta-1", "rocm-js", "rocm-js--beta-1")
    write_results(tmp_path, config, effects(**dict.fromkeys(alike, {"gold": 0.1})))
    assert verdict_on("Q2", tmp_path, config).verdict == NO_DIFFERENCE


@pytest.mark.parametrize(
    ("sweeps", "asked"),
    [
        ([], set()),  # the demo
        (tuned()[:1], set()),  # a control that no divergence has as many tries as
        (tuned()[1:], {"Q2"}),  # no control
        (tuned(methods=["rocm-kl"]), {"Q1a", "Q1b"}),  # no second divergence to compare with
        (tuned(), {"Q1a", "Q1b", "Q2"}),
    ],
)
def test_without_its_control_a_question_is_not_tested(tmp_path, sweeps, asked):
    config = make_config(sweeps=sweeps)
    write_results(tmp_path, config, effects(**{"rocm-kl": {"gold": 0.3}}))
    ledger = make(Results(config, tmp_path))
    found = {v.claim.id: v for v in ledger.verdicts}
    assert {id for id in ("Q1a", "Q1b", "Q2") if found[id].verdict != NOT_TESTED} == asked
    for id in {"Q1a", "Q1b", "Q2"} - asked:
        assert not found[id].findings and "several" in found[id].reason
        assert any(id in limit for limit in ledger.to_dict()["limits"])


def test_searched_settings_are_a_control_too(tmp_path):
    search = {"search": [1e-3, 1e-4], "iterations": 20}
    both = {"rocm-none": {"learning_rate": search}, "rocm-kl": {"beta": search}}
    curve = [{"methods": ["rocm-kl"], "setting": "beta", "values": [0.1, 1.0]}]  # figure 4's
    for methods, sweeps, asked in (
        (both, [], True),
        (both, curve, True),
        (both | {"rocm-kl": {"beta": 0.1}}, [], False),
        (both | {"rocm-kl": {"beta": 0.1}}, curve, False),
    ):
        evidence = Evidence(Results(make_config(methods=methods, sweeps=sweeps), tmp_path))
        assert evidence.tuned_alike("hpsv2", "rocm-kl", "rocm-none") == asked


def test_a_verdict_of_one_seed_says_so_on_its_face(stopping, tmp_path):
    root, config = stopping
    three, one = make(Results(config, root)), tmp_path / "one"
    config = make_config(sweeps=tuned())
    write_results(one, config, effects(**{"rocm-kl": {"gold": 0.3}}))
    alone = make(Results(config, one))
    assert not any(verdict.scope for verdict in three.verdicts)
    assert not any(ONE_TRAINING in limit for limit in three.to_dict()["limits"])
    for ledger, scope in ((three, ""), (alone, ONE_TRAINING)):
        ledger.save(tmp_path / "claims")
        told = {c["id"]: c for c in json.loads((tmp_path / "claims.json").read_text())["claims"]}
        text = (tmp_path / "claims.md").read_text()
        for id in ("Q1a", "13"):
            assert told[id]["scope"] == scope and told[id]["verdict"] in VERDICTS
            face = f"**{told[id]['verdict']}**" + (f", {scope}" if scope else "")
            assert f"| {id} | {told[id]['claim']} | {face} |" in text
    decided, one_seed = alone.to_dict()["limits"][:2]
    assert re.fullmatch(r"Decided here: .*\b11\b.*\.", decided) and ONE_TRAINING in one_seed
    assert decided in text.split("|")[0] and one_seed in text.split("|")[0]
    texts = [claim.text for claim in CLAIMS if re.search(rf"\b{claim.id}\b", decided)]
    assert all(text in decided for text in texts) == (len(texts) <= 3)


def test_every_claim_of_a_paper_has_its_place_there():
    of_papers = {c.id for c in CLAIMS if not c.id.startswith("Q")}
    assert {id for id, stated in STATED.items() if stated.paper} == of_papers
    assert STATED.keys() == {c.id for c in CLAIMS}
    drawn = {*names("tables"), *names("figures")}
    for stated in STATED.values():
        assert set(stated.shown_in) <= drawn and bool(stated.where) == bool(stated.number)


def test_what_tuning_is_worth_shows_in_the_trials_of_searches(tmp_path):
    """PPO's three tries differ, ROCM's do not; or the other way round."""
    rates = [1e-4, 1e-3, 1e-2]
    search = {"learning_rate": {"search": rates, "iterations": 20}}
    config = make_config(methods={"rocm-none": search, "rlcm": search}, rewards=["hpsv2"])
    ours, ppo = (
        [f"{name}--learning_rate-{rate:g}--iterations-20" for rate in rates]
        for name in ("rocm-none", "rlcm")
    )
    for apart, alike, verdict in ((ppo, ours, CONFIRMED), (ours, ppo, REFUTED)):
        planted = {("hpsv2", name): {"hpsv2": 0.02 * i} for i, name in enumerate(apart)}
        planted |= {("hpsv2", name): {"hpsv2": 0.02} for name in alike}
        write_results(tmp_path / verdict, config, planted)
        found = verdict_on("14a", tmp_path / verdict, config)
        assert found.verdict == verdict and found.scope == "one training per method"
        lost = abs(found.decisive.shown.mean)  # in standard deviations over prompts
        assert lost * SPREADS["hpsv2"] == pytest.approx(0.02, rel=0.2)


def test_the_control_has_no_more_tries_than_the_divergence(tmp_path):
    """A third learning rate is not compared with two values of β."""
    rates = [1e-3, 3e-4, 1e-4]
    config = make_config(sweeps=tuned(*rates))
    lucky = {"gold": 1.0, "clipscore": 1.0, "hpsv2": 1.0, "aesthetic": 1.0}
    planted = effects(**{f"rocm-none--learning_rate-{rate:g}": lucky for rate in rates[1:]})
    write_results(tmp_path, config, planted)
    found = verdict_on("Q1b", tmp_path, config)
    assert found.decisive.part.comparison.effect.mean == pytest.approx(0.0, abs=0.3)
    more = make_config(sweeps=tuned(*rates, betas=(1.0, 2.0)))
    write_results(tmp_path / "more", more, planted)
    found = verdict_on("Q1b", tmp_path / "more", more)
    assert found.verdict == REFUTED
    assert found.decisive.part.comparison.effect.mean < -1


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """ROCM above RLCM above the baselines on diffusion, in scores and in speed."""
    config = make_wide_config(seeds=[0, 1, 2], methods=FOUR)
    root = tmp_path_factory.mktemp("wide")
    good = {"clipscore": 0.03, "gold": 0.1, "hpsv2": 0.02, "aesthetic": 0.4}
    bad = {name: -2 * value for name, value in good.items()}
    planted = effects(
        **{
            "rocm-kl": good | {"slope": 0.004},
            "rlcm": {"slope": 0.002},
            "ddpo": bad | {"slope": 0.001},
            "dpok": bad | {"slope": 0.001},
            "d3po": bad | {"slope": 0.001},
        }
    )
    write_results(root, config, planted)
    return root, config


@pytest.mark.parametrize(
    ("id", "verdict"),
    [
        ("1", CONFIRMED),
        ("2", CONFIRMED),
        ("3", CONFIRMED),
        ("4", CONFIRMED),
        ("5", CONFIRMED),
        ("6", CONFIRMED),
        ("11", CONFIRMED),
        ("13", CONFIRMED),
        ("R1", CONFIRMED),
        ("7", REFUTED),
        ("8", NOT_TESTED),
        ("12", CONFIRMED),
        ("14b", CONFIRMED),
    ],
)
def test_planted_results_confirm_the_claims_that_they_were_planted_for(wide, id, verdict):
    found = verdict_on(id, *wide)
    assert found.verdict == verdict, record(found)


def test_the_opposite_refutes(tmp_path):
    config = make_wide_config(seeds=[0, 1, 2], methods=FOUR)
    bad = {"clipscore": -0.06, "gold": -0.2, "hpsv2": -0.04, "aesthetic": -0.8, "slope": 0.001}
    good = {"clipscore": 0.06, "gold": 0.2, "hpsv2": 0.04, "aesthetic": 0.8, "slope": 0.02}
    losing, winning = ("rocm-none", "rocm-kl", "rlcm"), ("ddpo", "dpok", "d3po")
    planted = effects(**dict.fromkeys(losing, bad), **dict.fromkeys(winning, good))
    write_results(tmp_path, config, planted)
    results = Results(config, tmp_path)
    found = {verdict.claim.id: verdict.verdict for verdict in make(results).verdicts}
    assert {found[id] for id in ("1", "3", "6", "13", "R1")} == {REFUTED}
    assert found["2"] == CONFIRMED  # a tie with RLCM, as bad as it, is enough


def test_rlcms_claims_are_about_its_own_tasks(wide):
    for id in ("R1", "R3"):
        labels = [finding.part.label for finding in verdict_on(id, *wide).findings]
        assert labels and all(label.startswith("Aesthetic: ") for label in labels)
    labels = {f.part.label: f.part.missing for f in verdict_on("R4", *wide).findings}
    lacking = [label for label, missing in labels.items() if missing]
    assert len(labels) == 4 and len(lacking) == 3 and not labels["Aesthetic: RLCM − DDPO"]


def test_who_has_not_learned_has_no_time_to_compare(tmp_path):
    config = make_wide_config(seeds=[0, 1, 2], methods=FOUR)
    learns = dict.fromkeys(("rlcm", "ddpo", "d3po"), {"slope": 0.002})
    at_once = {"rocm-kl": {"slope": 1.0}}  # its first window is above all that others come to
    write_results(tmp_path, config, effects(**learns, **at_once, dpok={"slope": 0.0}))
    labels = [finding.part.label for finding in verdict_on("5", tmp_path, config).findings]
    assert "HPSv2: time of DDPO / ROCM" in labels and "HPSv2: time of D3PO / RLCM" in labels
    assert not [label for label in labels if "time of DPOK" in label]
    assert "HPSv2: ROCM − DPOK, mean reward in equal time" in labels


def test_a_factor_is_that_of_the_costs(wide):
    """Rewards rise linearly: 0.3 + slope × step; RLCM needs twice ROCM's steps for any of them."""
    found = verdict_on("4", *wide)
    ratio = found.findings[0].shown
    assert found.findings[0].part.unit == "factor"
    assert ratio.mean == pytest.approx(2.0, rel=0.1)


def test_costs_are_compared_between_the_same_seeds(tmp_path):
    config = make_config(
        rewards=["hpsv2"],
        methods={"rocm-kl": {"beta": 0.05}, "rlcm": {"batch_size": 8, "images_per_prompt": 4}},
        seeds=[0, 1, 2],
        base_rewards=True,
        partial=True,
    )
    write_results(tmp_path, config)
    runs = base_runs(config, make_grid(config))
    assert not [
        f.part.missing for f in verdict_on("4", tmp_path, config).findings if f.part.missing
    ]
    lacking = "history of cell hpsv2/rocm-kl/seed-0, or what its base scores, missing"
    # Two seeds of each are left, then one: not the same.
    for seeds in ((0, 1), (1, 0)):
        for method, seed in zip(("rocm-kl", "rlcm"), seeds, strict=True):
            run = runs[f"hpsv2/{method}/seed-{seed}"]
            (tmp_path / "base_rewards" / run.policy / f"{run.key}.csv").unlink()
        found = verdict_on("4", tmp_path, config)
        assert found.verdict == UNDECIDED
        assert {finding.part.missing for finding in found.findings} == {lacking}


def test_claim_3_is_about_the_methods_that_it_names(tmp_path):
    methods = {"rocm-kl": {"beta": 0.05}, "rlcm": {}, "ddpo": {}}
    group = {"batch_size": 8, "images_per_prompt": 4}
    both = {"policies": POLICIES, "rewards": ["hpsv2"]}
    good = dict.fromkeys(("rocm-kl", "rlcm"), {"clipscore": 0.06, "aesthetic": 0.8})
    bad = {"grpo-consistency": {"clipscore": -0.06, "aesthetic": -0.8}}
    config = make_config(**both, methods=methods | {"grpo-consistency": group})
    write_results(tmp_path, config, effects(**good, **bad))
    assert verdict_on("3", tmp_path, config).verdict == CONFIRMED
    others = make_config(**both, methods={"grpo-consistency": group, "ddpo": {}})
    found = verdict_on("3", tmp_path, others)
    assert found.verdict == NOT_TESTED and not found.findings


def test_models_of_which_fewer_prompts_are_scored_yet_are_compared_on_those(tmp_path):
    """Where the validation set grows; means are not of other prompts for other models."""
    config = make_config(
        policies=POLICIES,
        rewards=["hpsv2"],
        methods={"rocm-kl": {"beta": 0.05}, "rlcm": {}, "ddpo": {}},
        generation={"inference_steps": [2, 16]},
        seeds=[0, 1],
        partial=True,
    )
    write_results(tmp_path, config)
    for scores in (tmp_path / "samples/hpsv2/rlcm/seed-1/validation").glob("*/scores.csv"):
        header, *rows = scores.read_text().splitlines()
        scores.write_text("\n".join([header, *(row for row in rows if row < "p0030")]) + "\n")
    for id in ("3", "R2"):
        (finding,) = verdict_on(id, tmp_path, config).findings
        assert finding.part.comparison.difference.n == 30, finding.part.missing
        assert finding.part.comparison.seeds == 2


def test_equal_passes_wait_for_trainings_that_are_to_be_longer(wide):
    root, _ = wide
    longer = {"iterations": 80, "snapshot_every": 10}
    config = make_wide_config(seeds=[0, 1, 2], methods=FOUR, partial=True, training=longer)
    for id in ("Q3a", "Q3b"):
        found = verdict_on(id, root, config)
        assert found.verdict == UNDECIDED and "cell hpsv2/rocm-kl/seed-0 missing" in found.reason


def test_equal_passes_compares_snapshots_that_cost_as_much(wide):
    evidence = Evidence(Results(wide[1], wide[0]))
    spent = dict(evidence.nfe("hpsv2", "rlcm"))
    # 8 images × 4 steps of the chain an iteration, in tests/synthetic.py.
    assert spent == {step: 8 * 4 * step for step in (10, 20, 30, 40)}
    found = verdict_on("Q3b", *wide)
    assert found.verdict == CONFIRMED and "by how much" not in found.reason


def test_noise_is_read_off_the_images(tmp_path):
    config = make_config()
    write_results(tmp_path, config, effects(**{"rocm-none": {"high_frequency": 0.05}}))
    assert verdict_on("10", tmp_path, config).verdict == CONFIRMED
    noisy = tmp_path / "noisy"
    both = {"high_frequency": 0.05}
    write_results(noisy, config, effects(**{"rocm-none": {"high_frequency": 0.1}, "rocm-kl": both}))
    found = verdict_on("10", noisy, config)
    assert found.verdict == REFUTED
    assert found.decisive.part.label.endswith("ROCM, KL − Base (consistency model)")
    calm = tmp_path / "calm"
    write_results(calm, config)
    assert verdict_on("10", calm, config).verdict == NO_DIFFERENCE


def test_no_divergence_is_the_least_beta_only_at_the_same_learning_rate(tmp_path):
    sweep = {"methods": ["rocm-kl"], "setting": "beta", "values": [0.5]}
    for rate, zero, least in ((1e-4, [], None), (2e-4, [], "rocm-none"), (1e-4, [0.0], "beta-0")):
        config = make_config(
            methods={"rocm-none": {"learning_rate": rate}, "rocm-kl": {"beta": 0.05}},
            sweeps=[sweep | {"values": [0.5, *zero]}],
            training={"learning_rate": 2e-4},
        )
        results = Results(config, tmp_path)
        found = unregularised(results, "hpsv2", "rocm-kl")
        assert found == (f"rocm-kl--{least}" if zero else least)
        assert "rocm-kl--beta-0" not in Evidence(results).methods("hpsv2", ["rocm-kl"])
    search = {"search": [1e-4, 2e-4], "iterations": 20}
    methods = {"rocm-none": {"learning_rate": search}, "rocm-kl": {"beta": 0.05}}
    config = make_config(methods=methods, training={"learning_rate": 2e-4}, partial=True)
    chosen = tmp_path / "search/hpsv2/rocm-none.json"
    chosen.parent.mkdir(parents=True)
    for rate, least in ((None, "rocm-none"), (1e-4, None), (2e-4, "rocm-none")):
        if rate:
            chosen.write_text(json.dumps({"chosen": {"learning_rate": rate}}))
        assert unregularised(Results(config, tmp_path), "hpsv2", "rocm-kl") == least


def test_a_short_try_at_beta_0_is_not_a_divergences_training_without_it(tmp_path):
    search = {"beta": {"search": [0.0, 0.01, 0.1], "iterations": 20}}
    config = make_config(methods={"rocm-none": {}, "rocm-kl": search}, partial=True)
    assert unregularised(Results(config, tmp_path), "hpsv2", "rocm-kl") == "rocm-none"


def test_beta_peaks(tmp_path):
    """The reward falls and the judge peaks at the middle β."""
    config = make_config(
        methods={"rocm-none": {}, "rocm-kl": {"beta": 0.05}},
        sweeps=[{"methods": ["rocm-kl"], "setting": "beta", "values": [0.5]}],
    )
    planted = {}
    for reward, unit in (("hpsv2", 0.02), ("aesthetic", 0.4)):
        planted[reward, "rocm-none"] = {reward: 6 * unit, "gold": -0.5}
        planted[reward, "rocm-kl"] = {reward: 3 * unit, "gold": 0.5}
        planted[reward, "rocm-kl--beta-0.5"] = {reward: 1 * unit, "gold": 0.1}
    write_results(tmp_path, config, planted)
    assert verdict_on("7", tmp_path, config).verdict == CONFIRMED
    swapped = {k: v | {"gold": -v["gold"]} for k, v in planted.items()}
    write_results(tmp_path / "swapped", config, swapped)
    assert verdict_on("7", tmp_path / "swapped", config).verdict == REFUTED


def test_votes_speak_when_they_are_counted(wide, tmp_path):
    first, second = "hpsv2/rocm-kl/seed-0", "hpsv2/rlcm/seed-0"
    config = make_wide_config(
        seeds=[0, 1, 2], study={"comparisons": [[first, second]], "pairs": 20}
    )
    write_results(tmp_path, config)
    votes = tmp_path / "study/results.json"
    votes.unlink()
    assert "nobody has voted" in verdict_on("12", tmp_path, config).reason
    outcomes = [
        {"first": first, "second": second, "question": question, "pairs": 20}
        | {"win_rate": 0.7, "win_rate_low": low, "win_rate_high": 0.8}
        for question, low in (("appeal", 0.6), ("preference", 0.6), ("alignment", 0.4))
    ]
    votes.write_text(json.dumps({"outcomes": outcomes}))
    found = verdict_on("12", tmp_path, config)
    assert found.verdict == CONFIRMED
    assert found.decisive.shown.mean == pytest.approx(0.2)
    best = "hpsv2/rocm-best/seed-0"
    config = make_wide_config(seeds=[0, 1, 2], study={"comparisons": [[best, second]], "pairs": 20})
    assert f"no votes on {best} against {second}" in verdict_on("12", tmp_path, config).reason
    content = {"outcomes": outcomes, "chosen": {best: {"model": first}}}
    votes.write_text(json.dumps(content))
    assert verdict_on("12", tmp_path, config).verdict == CONFIRMED
    config = make_wide_config(
        seeds=[0, 1, 2], study={"comparisons": [[second, first]], "pairs": 20}
    )
    reverse = {"first": second, "second": first}
    votes.write_text(json.dumps({"outcomes": [one | reverse for one in outcomes]}))
    found = verdict_on("12", tmp_path, config)
    assert found.verdict == REFUTED
    shown = found.decisive.shown
    assert (shown.mean, shown.low, shown.high) == pytest.approx((-0.2, -0.3, -0.1))
    assert f"{first} against {second}" in found.decisive.part.label
    config = make_wide_config(seeds=[0, 1, 2], study={"comparisons": [[best, second]], "pairs": 20})
    for simulated in (True, False):
        votes.write_text(json.dumps(content | {"simulated": simulated}))
        label = verdict_on("12", tmp_path, config).decisive.part.label
        assert label.startswith("simulated raters, ") == simulated


# --- gaps


def test_missing_cells_are_named_and_nothing_is_dropped(wide, tmp_path):
    config = make_wide_config(seeds=[0, 1, 2], partial=True, methods=FOUR)
    write_results(tmp_path, config)
    for file in ("scores.csv", "readouts.csv"):
        (tmp_path / "samples/hpsv2/rlcm/seed-1/validation/steps-4" / file).unlink()
    ledger = make(Results(config, tmp_path))
    assert [verdict.claim.id for verdict in ledger.verdicts] == [claim.id for claim in CLAIMS]
    found = {verdict.claim.id: verdict for verdict in ledger.verdicts}
    assert found["1"].verdict in (UNDECIDED, REFUTED)
    gaps = [f.part.missing for f in found["1"].findings if f.part.missing]
    assert gaps == ["cell hpsv2/rlcm/seed-1 missing"]


def test_nothing_trained_yet_leaves_every_claim_open(tmp_path):
    config = make_wide_config(seeds=[0, 1], partial=True)
    write_results(tmp_path, config)
    for folder in ("samples", "cells", "study"):
        for file in sorted((tmp_path / folder).rglob("*.[cj]s*")):
            if "base-" not in str(file):
                file.unlink()
    ledger = make(Results(config, tmp_path))
    verdicts = {v.claim.id: v for v in ledger.verdicts if v.claim.id != "11"}
    for found in verdicts.values():
        lacking = not any(finding.part.configured for finding in found.findings)
        assert found.verdict == (NOT_TESTED if lacking else UNDECIDED), found.claim.id
    assert "cell hpsv2/rocm-kl/seed-0 missing" in verdicts["13"].reason


def test_missing_scores_end_a_finished_run(tmp_path):
    config = make_config()
    write_results(tmp_path, config)
    (tmp_path / "samples/base-consistency/validation/steps-4/readouts.csv").unlink()
    with pytest.raises(UserError, match="readouts.csv does not exist"):
        make(Results(config, tmp_path))


def test_the_ledger_is_written_twice_and_alike(stopping, tmp_path):
    root, config = stopping
    for name in ("one", "two"):
        render("claims", "claims", config, root, tmp_path / name)
    written = [(tmp_path / name).with_suffix(".json").read_bytes() for name in ("one", "two")]
    assert written[0] == written[1]
    ledger = json.loads(written[0])
    assert [claim["id"] for claim in ledger["claims"]] == [claim.id for claim in CLAIMS]
    text = (tmp_path / "one.md").read_text()
    for claim in ledger["claims"]:
        assert f"| {claim['id']} | {claim['claim']} | **{claim['verdict']}** |" in text
    (table,) = [line for line in text.splitlines() if line.startswith("| Q2 ")]
    q2 = ledger["claims"][2]
    assert q2["parts"][q2["decisive"]]["label"] in table


def test_a_choice_never_judges_itself():
    """Many candidates of pure noise: the chosen one is no better than the rest."""
    generator = np.random.default_rng(9)
    prompts = [f"p{i:03d}" for i in range(100)]
    gains = []
    for _ in range(60):
        scores = {
            (f"m{i}", None): pd.DataFrame(generator.normal(size=(1, 100)), [0], prompts)
            for i in range(30)
        }

        class Noise(Evidence):
            def __init__(self, table):
                self.table = table

            def scores(self, reward, candidate, metric):
                return self.table[candidate]

        gains.append(Noise(scores).chosen("r", list(scores), "m").to_numpy().mean())
    assert abs(np.mean(gains)) < 0.05  # chosen and judged on the same prompts it would be 0.2


def as_part(told, verdict):
    """A part as claims.json has it."""
    label, expects = told["label"], told["expects"]
    if "p" not in told:  # a check, or what is missing
        checked = None if told["missing"] else told["outcome"] == HOLDS
        known = verdict != NOT_TESTED
        return Part(label, expects, None, "", told["missing"], checked, configured=known)

    def estimate(name, scale=float):
        ends = told[name] and {key: scale(value) for key, value in told[name].items()}
        return ends and Estimate(**ends, n=told["prompts"])

    difference = estimate("difference", math.log if told["unit"] == FACTOR else float)
    others = estimate("effect"), estimate("win_rate")
    margin = float(others[0].low <= -MARGIN) if others[0] else None  # of ledgers without p_margin
    margin = told.get("p_margin", margin)
    comparison = Comparison(difference, *others, told["p"], told["seeds"], margin)
    return Part(label, expects, comparison, told["unit"])


def test_the_page_of_results_says_what_the_ledgers_say():
    assert verdicts.PAGE.read_text(encoding="utf-8") == verdicts.page()


LEDGERS = sorted((ROOT / "docs/results").glob("*/claims.json"))


def published(path):
    return json.loads(path.read_text(encoding="utf-8"))["claims"]


@pytest.mark.parametrize("path", LEDGERS, ids=[path.parent.name for path in LEDGERS])
def test_the_published_verdicts_are_what_the_rules_make_of_their_parts(path):
    claims = {claim.id: claim for claim in CLAIMS}
    for told in published(path):
        claim = claims[told["id"]]
        parts = [as_part(part, told["verdict"]) for part in told["parts"]]
        again = decide(Claim(claim.id, "", "", "", claim.rule, lambda _, parts=parts: parts), None)
        assert told["verdict"] == again.verdict, claim.id
        assert [part["outcome"] for part in told["parts"]] == [f.outcome for f in again.findings]


def test_the_published_ledgers_have_every_verdict():
    assert {told["verdict"] for path in LEDGERS for told in published(path)} == set(VERDICTS)


def test_the_control_of_early_stopping_says_from_where(tmp_path):
    config = make_config(sweeps=tuned(), seeds=[0, 1])
    write_results(tmp_path, config)
    verdict = verdict_on("Q1a", tmp_path, config)
    assert verdict.findings[0].part.label == "Mean of all; the control may stop from step 10 on"
