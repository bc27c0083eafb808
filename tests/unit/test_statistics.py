import itertools
import math

import numpy as np
import pandas as pd
import pytest

from rocm_core.analysis import (
    Estimate,
    bootstrap_means,
    mean_interval,
    paired_difference,
    per_prompt,
    win_rate,
)


def series(values, prefix="p"):
    return pd.Series(values, index=[f"{prefix}{i}" for i in range(len(values))], dtype=float)


def test_mean_interval_is_the_textbook_one():
    values = [1.0, 2.0, 3.0, 4.0, 10.0]
    deviation = math.sqrt(sum((v - 4.0) ** 2 for v in values) / 4)
    half = 1.959963984540054 * deviation / math.sqrt(5)
    found = mean_interval(values)
    assert found == Estimate(4.0, pytest.approx(4 - half), pytest.approx(4 + half), 5)
    assert found.half_width == pytest.approx(half)


def test_mean_interval_covers_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(1)
    found = [mean_interval(generator.normal(3.0, 2.0, size=80)) for _ in range(2000)]
    covered = np.mean([e.low <= 3.0 <= e.high for e in found])
    assert 0.93 < covered < 0.965


def test_one_prompt_has_a_mean_but_no_interval():
    found = mean_interval([2.0])
    assert found.mean == 2.0 and math.isnan(found.low) and found.direction == "undecided"


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], [1.0, math.nan], [math.inf]])
def test_what_is_no_vector_of_scores_is_refused(values):
    with pytest.raises(ValueError):
        mean_interval(values)


def test_seeds_are_averaged_within_a_prompt():
    scores = pd.DataFrame(
        {"prompt_id": ["b", "a", "b", "a"], "seed": [0, 0, 1, 1], "value": [1.0, 2.0, 3.0, 6.0]}
    )
    pd.testing.assert_series_equal(
        per_prompt(scores), pd.Series({"a": 4.0, "b": 2.0}), check_names=False
    )


def test_bootstrap_has_the_distribution_of_all_resamples_of_three_values():
    values = [0.0, 1.0, 5.0]
    every = [sum(draw) / 3 for draw in itertools.product(values, repeat=3)]
    found = bootstrap_means(values, resamples=60_000, seed=3)
    for mean in set(every):
        share = np.mean(np.isclose(found, mean, atol=1e-6))
        assert share == pytest.approx(every.count(mean) / 27, abs=0.01)


def test_paired_difference_uses_pairs_and_not_the_spread_of_the_prompts():
    generator = np.random.default_rng(0)
    control = series(generator.normal(0, 100, size=200))
    treated = control + 1 + series(generator.normal(0, 0.5, size=200))
    found = paired_difference(treated, control)
    noise = (treated - control).to_numpy()
    half = 1.96 * noise.std(ddof=1) / math.sqrt(200)
    assert found.mean == pytest.approx(noise.mean())
    assert found.low == pytest.approx(noise.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(noise.mean() + half, abs=0.15 * half)
    assert found.direction == "rises"
    assert paired_difference(control, treated).direction == "falls"


def test_paired_difference_is_reproducible_and_matches_prompts_by_id():
    treated, control = series([3.0, 5.0, 9.0, 4.0]), series([1.0, 1.0, 2.0])
    found = paired_difference(treated, control[::-1])
    assert found == paired_difference(treated, control)
    assert (found.mean, found.n) == (pytest.approx(13 / 3), 3)


def test_a_null_effect_is_called_a_change_about_one_time_in_twenty():
    generator = np.random.default_rng(5)
    zero = series(np.zeros(60))
    called = [
        paired_difference(series(generator.normal(size=60)), zero, resamples=1000).direction
        for _ in range(600)
    ]
    assert 0.02 < 1 - called.count("undecided") / 600 < 0.09


def test_no_common_prompt_is_refused():
    with pytest.raises(ValueError):
        paired_difference(series([1.0], "a"), series([1.0], "b"))


def test_win_rate_counts_ties_as_half_and_keeps_its_interval_inside_0_and_1():
    found = win_rate(series([2.0, 1.0, 5.0, 0.0]), series([1.0, 1.0, 1.0, 1.0]))
    assert (found.mean, found.n) == (0.625, 4)
    every = win_rate(series([1.0] * 10), series([0.0] * 10))
    # Wilson's lower bound for 10 of 10 is n / (n + z²), its upper bound 1.
    assert every.low == pytest.approx(10 / (10 + 1.959963984540054**2))
    assert every.high == pytest.approx(1.0)


def test_an_interval_that_leaves_out_0_does_not_read_as_if_it_had_it():
    assert Estimate(0.012, 0.0003, 0.0237, 40).change() == "+0.0120 [+0.0003, +0.0237]"
    assert Estimate(0.012, 0.0, 0.024, 40).change() == "+0.012 [+0.000, +0.024]"
