"""A sample that says nothing of its spread has no interval, and whatever shows one says so."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from synthetic import make_config, make_wide_config, write_results

from rocm_core.analysis import (
    Estimate,
    Results,
    compare,
    compare_differences,
    compare_seeds,
    compare_shares,
    mean_interval,
    paired_difference,
    training_seeds,
    win_rate,
)
from rocm_core.claims import make as make_ledger
from rocm_core.claims._evidence import Evidence, Undecidable
from rocm_core.claims._verdict import (
    DIFFERENT,
    LITTLE,
    MISSING,
    MORE,
    NOT_LESS,
    UNDECIDED,
    Claim,
    decide,
    every,
    part,
)
from rocm_core.claims._votes import preference
from rocm_core.claims._write import record
from rocm_core.grid import offered
from rocm_core.plugins import load
from rocm_core.report.build import make as make_report
from rocm_core.study.aggregate import Outcome, crossed_mean

PICTURES = {"figure1", "figure2", "figure6", "samples"}
PROMPTS = {
    "train": {"source": "shapes", "count": 64, "seed": 1},
    "validation": {"source": "shapes", "count": 1, "seed": 2},
    "rings": {"source": "shapes", "count": 1, "seed": 3, "containing": ["ring"]},
}


def series(*values):
    return pd.Series(values, index=[f"p{i}" for i in range(len(values))], dtype=float)


# Base scores and the same number more, which rounding makes differ in the last digit.
BASE = np.random.default_rng(0).normal(20, 3, size=50)
DEGENERATE = {
    "the mean of one value": lambda: mean_interval([0.3]),
    "the mean of equal values": lambda: mean_interval([1.0] * 9),
    "one difference": lambda: paired_difference(series(0.302), series(0.3)),
    "equal differences": lambda: paired_difference(series(*BASE + 0.002), series(*BASE)),
    "one win": lambda: win_rate(series(1.0), series(0.0)),
    "models a number apart": lambda: compare([BASE + 0.002], [BASE]).difference,
    "the same in two seeds": lambda: compare([BASE + 0.002] * 2, [BASE]).difference,
    "equal differences given": lambda: compare_differences([[0.1] * 5]).difference,
    "equal effects": lambda: compare_differences([[0.1] * 5], standardised=True).effect,
    "seeds that agree": lambda: compare_seeds([0.2, 0.2, 0.2]).difference,
    "one vote": lambda: crossed_mean(np.ones((1, 1))),
    "votes that are all alike": lambda: crossed_mean(np.ones((10, 30))),
}


@pytest.mark.parametrize("sample", DEGENERATE)
def test_a_degenerate_sample_has_a_mean_but_no_interval(sample):
    found = DEGENERATE[sample]()
    assert math.isfinite(found.mean) and not found.has_interval
    assert math.isnan(found.low) and math.isnan(found.high) and found.direction == "undecided"
    assert found.plus_minus(2) == f"{found.mean:.2f} (no interval)"
    assert found.change(2, " SD") == f"+{found.mean:.2f} SD [no interval]"


def test_what_varies_a_little_has_an_interval():
    assert paired_difference(series(*BASE + 0.002), series(*BASE + 1e-6 * BASE)).has_interval
    assert Estimate(0.5, 0.25, 0.75, 9).plus_minus(2) == "0.50 ± 0.25"
    assert Estimate(0.5, 0.25, 0.75, 9).change(2) == "+0.50 [+0.25, +0.75]"


def test_wins_that_are_all_equal_have_wilsons_interval():
    """It is known how they vary; 2 Φ(-√n) is the p-value of its test of one half."""
    found = compare_shares(np.ones((2, 25)))
    rate = win_rate(series(*[1.0] * 25), series(*[0.0] * 25))
    assert found.difference == Estimate(0.5, rate.low - 0.5, rate.high - 0.5, 25)
    assert found.p == pytest.approx(math.erfc(5 / math.sqrt(2)))
    assert compare_shares(np.full((1, 25), 0.5)).p == 1.0


@pytest.mark.parametrize("expects", [MORE, NOT_LESS, LITTLE, DIFFERENT])
def test_a_claim_is_not_decided_by_a_comparison_without_an_interval(expects):
    found = compare([BASE + 5], [BASE])
    assert found.p == 1.0 and not found.is_tie
    claim = Claim("x", "text", "test", "needs", every, lambda _: [made])
    made = part("equal", expects, lambda: found)
    verdict = decide(claim, None)
    assert verdict.verdict == UNDECIDED and verdict.findings[0].outcome == MISSING
    assert "no interval, because all differences are equal" in verdict.reason
    json.dumps(record(verdict), allow_nan=False)


def test_votes_without_an_interval_are_said_to_have_none(tmp_path):
    alike = crossed_mean(np.ones((3, 4)))
    outcome = Outcome("one", "two", "appeal", 3, 4, 12, 12, 0, 0, alike, alike, None).flat()
    assert (outcome["win_rate"], outcome["win_rate_low"], outcome["win_rate_high"]) == (
        1,
        None,
        None,
    )
    results = Results(make_config(), tmp_path)
    results.outcomes = [outcome]
    with pytest.raises(
        Undecidable, match="no interval, because there is one vote or all are alike"
    ):
        preference(Evidence(results), "one", "two", "appeal")


def test_one_training_seed_has_no_deviation():
    assert training_seeds([1, 1], "band") == "1 training seed (one alone has no band)"
    assert training_seeds([1, 2, math.nan], "band").startswith("1–2 training seeds (one alone")
    assert training_seeds([2, 2], "band") == "2 training seeds"


def constant(root):
    """Every score of a run the same number for every prompt."""
    for path in root.rglob("scores.csv"):
        scores = pd.read_csv(path)
        keys = [key for key in ("step", "metric") if key in scores]
        scores.assign(value=scores.groupby(keys)["value"].transform("first")).to_csv(
            path, index=False
        )


def one_prompt(root):
    comparisons = [["hpsv2/rocm-kl/seed-0", "hpsv2/rlcm/seed-0"]]
    study = {"comparisons": comparisons, "pairs": 1}
    config = make_wide_config(prompts=PROMPTS, seeds=[0], snapshots={"prompts": 1}, study=study)
    write_results(root, config)
    return config


def equal_scores(root):
    config = make_wide_config(seeds=[0])
    write_results(root, config)
    constant(root)
    return config


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("write", "gold"),
    [pytest.param(one_prompt, False, marks=pytest.mark.faults), (equal_scores, True)],
)
def test_everything_that_is_drawn_says_that_there_is_no_interval(tmp_path, write, gold):
    config = write(tmp_path)
    if not gold:  # the held-out scorers judge, in standard deviations of scores that have none
        config = config.model_copy(update={"metrics": ("hpsv2", "aesthetic", "clipscore")})
    outcomes = json.loads((tmp_path / "study/results.json").read_text())["outcomes"]
    for outcome in outcomes:
        outcome |= {"win_rate_low": None, "win_rate_high": None}
    (tmp_path / "study/results.json").write_text(json.dumps({"outcomes": outcomes}))
    results = Results(config, tmp_path)
    for name in offered("tables", config):
        table = load("tables", name).make(results)
        text = table.markdown() + table.latex(name) + table.html()
        assert not re.search(r"\bnan\b|± *0\.0+\b|\[[+−]?([\d.]+), [+−]?\1\]", text, re.I), name
        alone = "one alone has no deviation" in text
        said = {"table3": False, "costs": alone, "gradients": alone}
        assert said.get(name, "no interval" in text) or name == "table3", name
    for name in set(offered("figures", config)) - PICTURES:
        drawn = load("figures", name).make(results)
        assert not re.search(r"\bnan\b", drawn.caption, re.I), name
        for ends in drawn.data.columns.intersection(["low", "win_rate_low"]):
            absent = drawn.data[ends].isna().any()
            assert absent == ("have no interval" in drawn.caption), name
            # Without a deviation there is no unit; Wilson's intervals are there.
            exempt = drawn.data.empty or (name == "figure4" and write is equal_scores)
            assert absent or exempt, name
        if "deviation" in drawn.data and name != "figure5":
            assert "one alone has no band" in drawn.caption
            assert drawn.data["deviation"].isna().all()
    ledger = make_ledger(results)
    ledger.save(tmp_path / "claims")
    text = (tmp_path / "claims.json").read_text() + (tmp_path / "claims.md").read_text()
    assert not re.search(r"\bnan\b", text, re.I)
    html = make_report(Results(config.model_copy(update={"partial": True}), tmp_path)).html
    readings = html.partition('id="readings"')[2].partition("</section>")[0]
    assert readings.count("[no interval]") > 10 and "nan" not in readings
    assert not re.search(r'class="(rises|falls)"', readings)
