"""The statistics that decide claims: known answers, and the level of their errors."""

import itertools
import math

import numpy as np
import pytest

from rocm_core.analysis import compare, compare_differences, compare_seeds, comparison, holm

# 97.5 % quantiles of Student's t, from the tables.
STUDENT = {1: 12.706, 2: 4.303, 9: 2.262}


def test_one_seed_gives_the_bootstrap_over_prompts():
    generator = np.random.default_rng(0)
    control = generator.normal(size=(1, 100))
    treated = control + generator.normal(0.3, 0.5, size=(1, 100))
    found, gaps = compare(treated, control), (treated - control)[0]
    half = 1.96 * gaps.std(ddof=1) / 10
    assert found.difference.mean == pytest.approx(gaps.mean())
    assert found.difference.low == pytest.approx(gaps.mean() - half, abs=0.1 * half)
    assert found.difference.high == pytest.approx(gaps.mean() + half, abs=0.1 * half)
    assert (found.difference.n, found.seeds) == (100, 1)


def test_the_effect_is_counted_in_the_mean_variance_of_both_sides():
    generator = np.random.default_rng(1)
    control, treated = generator.normal(0, 1, (1, 400)), generator.normal(2, 3, (1, 400))
    found = compare(treated, control)
    assert found.effect.mean == pytest.approx(2 / math.sqrt((9 + 1) / 2), abs=0.15)
    assert found.effect.low < found.effect.mean < found.effect.high
    backwards = compare(control, treated)
    assert backwards.effect.mean == pytest.approx(-found.effect.mean)
    assert backwards.win_rate.mean == pytest.approx(1 - found.win_rate.mean)


def test_seeds_that_disagree_widen_the_interval_by_students_t():
    shifts = np.array([[0.1], [0.5], [0.9]])
    found = compare(np.tile(np.linspace(0, 1, 50), (3, 1)) + shifts, np.linspace(0, 1, 50)[None])
    half = STUDENT[2] * 0.4 / math.sqrt(3)
    assert found.difference.mean == pytest.approx(0.5)
    assert found.difference.half_width == pytest.approx(half, rel=0.05)
    assert found.p > 0.05


@pytest.mark.parametrize("freedom", STUDENT)
def test_seeds_alone_give_the_textbook_interval(freedom):
    values = np.random.default_rng(2).normal(1.0, 2.0, size=freedom + 1)
    found = compare_seeds(values)
    half = STUDENT[freedom] * values.std(ddof=1) / math.sqrt(freedom + 1)
    assert found.difference.half_width == pytest.approx(half, rel=0.06)
    assert found.effect is None and not found.is_tie


def test_p_and_interval_say_the_same():
    generator = np.random.default_rng(3)
    for shift in np.linspace(-0.6, 0.6, 25):
        found = compare_differences(generator.normal(shift, 1, size=(1, 60)))
        excluded = found.difference.low > 0 or found.difference.high < 0
        assert excluded == (found.p < 0.05) or abs(found.p - 0.05) < 0.002


def test_identical_models_tie():
    scores = np.random.default_rng(4).normal(size=(3, 40))
    found = compare(scores, scores)
    assert found.p == 1.0 and found.is_tie and found.win_rate.mean == 0.5
    assert found.difference.low == found.difference.high == 0.0


def test_holm_is_the_procedure_of_its_paper():
    """Step down through the ordered p-values while each is below α / (m - i)."""
    p_values = [0.01, 0.04, 0.03, 0.005, 0.8]
    corrected = holm(p_values)
    for alpha in (0.01, 0.03, 0.05, 0.1, 0.2):
        rejected = set()
        for i, place in enumerate(sorted(range(5), key=lambda k: p_values[k])):
            if p_values[place] > alpha / (5 - i):
                break
            rejected.add(place)
        assert {k for k in range(5) if corrected[k] <= alpha} == rejected
    assert holm([]) == [] and max(holm([0.9, 0.9])) == 1.0


@pytest.mark.parametrize("shape", [((2, 3), (2, 4)), ((2, 3), (3, 3)), ((2, 1), (2, 1))])
def test_scores_that_cannot_be_paired_are_refused(shape):
    with pytest.raises(ValueError):
        compare(np.ones(shape[0]), np.ones(shape[1]))


@pytest.mark.parametrize("values", [[1.0], [[1.0, 2.0]], [1.0, math.nan]])
def test_one_seed_alone_is_no_sample_of_seeds(values):
    with pytest.raises(ValueError):
        compare_seeds(values)


@pytest.mark.parametrize(
    ("seeds", "of_seeds", "of_prompts"),
    [(1, 0.0, 1.0), (3, 0.0, 1.0), (3, 0.3, 1.0), (5, 1.0, 0.1)],
)
def test_a_null_effect_is_called_one_in_at_most_a_twentieth_of_a_thousand_repeats(
    monkeypatch, seeds, of_seeds, of_prompts
):
    """Both kinds of noise, either alone or together; 0.068 is 0.05 and 2.6 standard errors."""
    monkeypatch.setattr(comparison, "RESAMPLES", 1000)
    generator = np.random.default_rng(6)
    called = 0
    for _ in range(1000):
        gaps = of_seeds * generator.normal(size=(seeds, 1))
        gaps = gaps + of_prompts * generator.normal(size=(1, 60))
        gaps = gaps + generator.normal(size=(seeds, 60))
        called += compare_differences(gaps).p < 0.05
    assert 0.008 < called / 1000 < 0.068


def test_of_many_null_comparisons_any_is_called_in_a_twentieth_of_families(monkeypatch):
    monkeypatch.setattr(comparison, "RESAMPLES", 2000)
    generator = np.random.default_rng(7)
    families = [
        [compare_differences(generator.normal(size=(1, 80))).p for _ in range(10)]
        for _ in range(300)
    ]
    corrected = np.mean([min(holm(family)) < 0.05 for family in families])
    assert corrected < 0.09
    assert np.mean([min(family) < 0.05 for family in families]) > 0.3  # without the correction


def test_the_bootstrap_of_seeds_would_call_too_much():
    """Why seeds are not drawn: with three, all of their 27 draws say too little about others."""
    generator = np.random.default_rng(8)
    draws = np.array(list(itertools.product(range(3), repeat=3)))
    called = 0
    for _ in range(1000):
        seeds = generator.normal(size=3)
        low, high = np.quantile(seeds[draws].mean(1), [0.025, 0.975])
        called += low > 0 or high < 0
    assert called / 1000 > 0.15
