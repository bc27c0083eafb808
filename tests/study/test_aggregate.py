"""What votes are made to say, against published examples and planted truths."""

import json

import numpy as np
import pandas as pd
import pytest
from shapes_study import FIRST, SECOND

from rocm_core.errors import UserError
from rocm_core.prompts import Prompt
from rocm_core.study.aggregate import aggregate, crossed_mean, krippendorff_alpha, tabulate
from rocm_core.study.design import QUESTIONS, TIE, Key, make_pairs, make_raters, plan
from rocm_core.study.votes import VoteBook

X = np.nan
# Krippendorff (2011), Computing Krippendorff's Alpha-Reliability: example C, four observers on
# twelve units with missing data; interval alpha 0.849.
OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, X, X, X],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, X, 3],
        [X, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, X],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, X],
    ]
)
# The same report's example A: binary data of two observers on ten units, nominal alpha 0.095.
BINARY = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]], dtype=float)


def test_agreement_matches_krippendorffs_published_examples():
    assert krippendorff_alpha(OBSERVERS) == pytest.approx(0.849, abs=5e-4)
    assert krippendorff_alpha(BINARY) == pytest.approx(0.095, abs=5e-4)


def test_agreement_at_its_ends():
    assert krippendorff_alpha(np.array([[0, 1, 0.5], [0, 1, 0.5]])) == 1
    assert krippendorff_alpha(np.array([[0, 1.0], [1, 0]])) < 0
    assert krippendorff_alpha(np.array([[0, 1, X], [X, X, 1]])) is None  # no pair is shared
    assert krippendorff_alpha(np.ones((2, 3))) is None  # nothing to disagree about
    noise = np.random.default_rng(0).integers(0, 2, (3, 4000)).astype(float)
    assert krippendorff_alpha(noise) == pytest.approx(0, abs=0.03)


def test_the_interval_holds_for_other_raters_and_other_pairs():
    """Coverage over worlds in which raters and pairs both differ, as crossed random effects."""
    generator = np.random.default_rng(0)
    hits = narrow = 0
    trials = 200
    for _ in range(trials):
        scores = 0.1 + 0.3 * generator.standard_normal((12, 1))
        scores = scores + 0.3 * generator.standard_normal((1, 60))
        scores = scores + 0.3 * generator.standard_normal((12, 60))
        found = crossed_mean(scores, resamples=600)
        hits += found.low <= 0.1 <= found.high
        half = 1.96 * scores.std() / scores.size**0.5  # as if 720 independent votes
        narrow += abs(scores.mean() - 0.1) <= half
    assert hits / trials > 0.88 and narrow / trials < 0.6


def test_one_raters_interval_is_that_of_a_bootstrap_over_pairs():
    scores = np.random.default_rng(1).integers(0, 2, (1, 80)).astype(float)
    found = crossed_mean(scores)
    half = 1.96 * scores.std() / 80**0.5
    assert found.mean == scores.mean() and found.n == 80
    assert (found.low, found.high) == pytest.approx(
        (found.mean - half, found.mean + half), abs=0.02
    )


def test_missing_votes_weigh_nothing():
    found = crossed_mean(np.array([[1, 1, X, X], [0, X, X, 1]]))
    assert found.mean == 0.75


def write_study(folder, choose, pairs=300, raters=3):
    """A study of two comparisons in which `choose(pair, rater, question)` gives the answers."""
    prompts = [Prompt(f"{i:05d}", f"prompt {i}", "x") for i in range(pairs)]
    images = [(f"a{i}", f"b{i}") for i in range(pairs)]
    made = [p for c in range(2) for p in make_pairs(c, prompts, images, "secret")]
    key = Key(
        study="study",
        ties=True,
        comparisons=((FIRST, SECOND), ("aesthetic/rocm-kl/seed-0", "aesthetic/rlcm/seed-0")),
        raters={rater.code: rater for rater in make_raters(raters, "secret")},
        pairs={pair.id: pair for pair in made},
        files=(),
    )
    folder.mkdir(exist_ok=True)
    key.write(folder)
    book = VoteBook(key, folder / "votes.jsonl")
    for code, rater in key.raters.items():
        for name, (left, right) in plan(made, rater).items():
            pair = key.pairs[name]
            meaning = {"left": left, "right": right, TIE: TIE}
            meaning |= {"first": pair.first, "second": pair.second}
            answers = {q: meaning[choose(pair, rater, q)] for q in QUESTIONS}
            book.record(json.dumps({"rater": code, "pair": name, "answers": answers}).encode())
    book.close()
    return key


@pytest.fixture(autouse=True)
def no_disk(monkeypatch):
    monkeypatch.setattr("rocm_core.study.votes.os.fsync", lambda file: None)


PLANTED = {(0, q): p for q, p in zip(QUESTIONS, (0.5, 0.62, 0.8), strict=True)} | {
    (1, q): p for q, p in zip(QUESTIONS, (0.35, 0.5, 0.7), strict=True)
}


def test_planted_preferences_are_recovered_within_their_intervals(tmp_path):
    generator = np.random.default_rng(3)

    def choose(pair, rater, question):
        if generator.random() < 0.2:
            return TIE
        wins = (PLANTED[pair.comparison, question] - 0.1) / 0.8
        return "first" if generator.random() < wins else "second"

    key = write_study(tmp_path, choose)
    found = aggregate(tmp_path)
    assert [(o.first, o.second) for o in found[::3]] == list(key.comparisons)
    assert [o.question for o in found] == list(QUESTIONS) * 2
    for outcome, planted in zip(found, PLANTED.values(), strict=True):
        rate = outcome.win_rate
        assert rate.low < planted < rate.high and rate.high - rate.low < 0.15
        assert outcome.left_rate.low < 0.5 < outcome.left_rate.high
        assert outcome.votes == 900 == outcome.wins + outcome.ties + outcome.losses
        assert rate.mean == pytest.approx((outcome.wins + outcome.ties / 2) / 900)
        assert abs(outcome.agreement) < 0.1  # raters differ by chance alone
    written = json.loads((tmp_path / "results.json").read_text())
    table = pd.read_csv(tmp_path / "results.csv")
    assert table["win_rate"].tolist() == [row["win_rate"] for row in written["outcomes"]]
    assert [row["pairs"] for row in written["raters"]] == [600] * 3


def test_a_favoured_side_shows_and_moves_no_win_rate(tmp_path):
    generator = np.random.default_rng(4)

    def choose(pair, rater, question):
        return "left" if generator.random() < 0.75 else "right"

    write_study(tmp_path, choose, pairs=100, raters=4)
    for outcome in aggregate(tmp_path):
        assert outcome.left_rate.low > 0.6
        assert outcome.win_rate.low < 0.5 < outcome.win_rate.high
    rows = json.loads((tmp_path / "results.json").read_text())["raters"]
    assert all(0.65 < row["left_rate"] < 0.85 for row in rows)


def test_a_pair_on_which_raters_agree_counts_as_agreement(tmp_path):
    def choose(pair, rater, question):
        return "first" if int(pair.prompt) % 3 else "second"

    write_study(tmp_path, choose, pairs=30)
    for outcome in aggregate(tmp_path):
        assert outcome.agreement == 1 and outcome.win_rate.mean == pytest.approx(2 / 3)


def test_votes_that_are_not_the_studys_are_refused_with_their_line(tmp_path):
    key = write_study(tmp_path, lambda *_: "first", pairs=2, raters=2)
    path = tmp_path / "votes.jsonl"
    lines = path.read_text().splitlines()
    vote = json.loads(lines[-1])
    forged = [
        {**vote, "pair": "0" * 32},
        {**vote, "rater": "0" * 16},
        {**vote, "left": "0" * 32},
        {**vote, "answers": {**vote["answers"], "appeal": "0" * 32}},
        {**vote, "answers": {}},
        json.loads(lines[0]),  # once more
    ]
    for forgery in forged:
        path.write_text("\n".join([*lines[:-1], json.dumps(forgery)]) + "\n")
        with pytest.raises(UserError, match=r"votes\.jsonl:8 is not a vote of this study"):
            tabulate(key, path)
    path.write_text("")
    with pytest.raises(UserError, match="is empty: nobody has voted yet"):
        aggregate(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="does not exist: nobody has voted yet"):
        aggregate(tmp_path)
