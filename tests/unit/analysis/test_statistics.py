"""Means and intervals against hand-computed ones."""

import math

import pandas as pd
import pytest
from gmt_analysis.statistics import mean_interval, summarise


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


@pytest.mark.parametrize("values", [[], [1, float("nan")], [float("inf")]])
def test_no_mean_of_nothing_or_of_what_is_not_finite(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_interval(values)


def test_only_finished_runs_are_averaged_by_arm_and_ratio() -> None:
    table = pd.DataFrame(
        {
            "arm": ["sft", "sft", "gmt", "gmt", "gmt"],
            "task": ["t"] * 5,
            "mask_ratio": [None, None, 0.5, 0.5, 0.9],
            "state": ["done", "done", "done", "failed", "done"],
            "score": [0.2, 0.4, 0.5, 0.9, 0.7],
        }
    )
    summary = summarise(table, ["score"])
    assert summary["arm"].tolist() == ["sft", "gmt", "gmt"]
    assert summary["n"].tolist() == [2, 1, 1]
    assert summary["score"].tolist() == pytest.approx([0.3, 0.5, 0.7])
