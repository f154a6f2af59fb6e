"""Means and intervals against hand-computed ones."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from gmt_analysis.statistics import bootstrap_intervals, mean_interval, summarise
from scipy import stats


def test_the_interval_equals_the_textbooks() -> None:
    # 10, 12, 14: mean 12, s = 2, t(0.975, 2) = 4.302653, half width 4.302653 * 2 / sqrt(3) = 4.968276.
    mean = mean_interval([10, 12, 14])
    assert (mean.mean, mean.n) == (12, 3)
    assert mean.high - 12 == pytest.approx(4.968276, abs=1e-5)
    assert 12 - mean.low == pytest.approx(4.968276, abs=1e-5)


def test_one_value_has_no_interval() -> None:
    mean = mean_interval([0.5])
    assert (mean.mean, mean.n) == (0.5, 1)
    assert math.isnan(mean.low)
    assert math.isnan(mean.high)


def test_the_bootstrap_of_three_values_is_near_that_of_all_their_samples() -> None:
    # A sample of -1, 0, 1 has no skew and a mean without bias: BCa is the percentile interval but for the acceleration,
    # which is 0. Of the 27 samples with repetition 1 has the mean -1, 3 have -2/3: 2.5 % lie below -1 + 2/3.
    ((low, high),) = bootstrap_intervals([[-1, 0, 1]])
    assert -1 <= low <= -2 / 3
    assert high == pytest.approx(-low, abs=0.34)
    every = sorted(sum(x) / 3 for x in product((-1, 0, 1), repeat=3))
    assert low in (pytest.approx(every[0]), pytest.approx(every[1]))


def test_the_bootstrap_of_many_normal_values_is_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=400)
    ((low, high),) = bootstrap_intervals([values.tolist()])
    mean = mean_interval(values.tolist())
    assert (low, high) == (pytest.approx(mean.low, abs=0.01), pytest.approx(mean.high, abs=0.01))
    assert bootstrap_intervals([values.tolist()]) == [(low, high)]


def test_the_bootstrap_of_nothing_and_of_equal_values() -> None:
    assert bootstrap_intervals([[0.5, 0.5, 0.5]]) == [(0.5, 0.5)]
    assert all(math.isnan(bound) for bound in bootstrap_intervals([[0.5]])[0])


@pytest.mark.parametrize("values", [[], [1, float("nan")], [float("inf")]])
def test_no_mean_of_nothing_or_of_what_is_not_finite(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_interval(values)


def test_only_finished_runs_are_averaged_by_arm_and_value() -> None:
    table = pd.DataFrame(
        {
            "arm": ["sft", "sft", "gmt", "gmt", "gmt"],
            "task": ["t"] * 5,
            "axis": [None, None, 0.5, 0.5, 0.9],
            "state": ["done", "done", "done", "failed", "done"],
            "score": [0.2, 0.4, 0.5, 0.9, 0.7],
        }
    )
    summary = summarise(table, ["score"])
    assert summary["arm"].tolist() == ["sft", "gmt", "gmt"]
    assert summary["n"].tolist() == [2, 1, 1]
    assert summary["score"].tolist() == pytest.approx([0.3, 0.5, 0.7])


def test_bootstrap_intervals_of_many_samples_equal_those_of_single_samples() -> None:
    scores = np.random.default_rng(0).integers(80, 120, size=(30, 10)) / 200  # means of resamples tie with the mean
    together = bootstrap_intervals(scores.tolist())
    alone = [stats.bootstrap((own,), np.mean, rng=np.random.default_rng(0)).confidence_interval for own in scores]
    assert together == [(bounds.low, bounds.high) for bounds in alone]
