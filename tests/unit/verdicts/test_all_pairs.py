"""Tests of all pairs of values: level and power by simulation, and special cases with known results."""

import math

import numpy as np
import pytest
from scipy import stats

from gmt.verdicts.all_pairs import all_pairs, p_alike
from gmt.verdicts.intervals import Floats, moments, p_within, simultaneous

# Deviations over seeds of gmt at nine ratios, as in docs/ratio_insensitivity.csv (long_words), in points
RECORDED = np.array([0.7, 0.9, 0.9, 1.8, 2.5, 2.5, 2.5, 2.5, 4.0])
UNEQUAL = np.array([0.2, 0.9, 1.3, 2.0, 3.2, 5.0])
NUM_DRAWS = 999


def studies(num_studies: int, num_seeds: int, deviations: Floats, *, drop: float = 0.0) -> Floats:
    """Return scores [study, seed, value]: noise of the seed and of the value; the last value is lower by `drop`."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=(num_studies, num_seeds, len(deviations))) * deviations
    return rng.normal(0, 2, size=(num_studies, num_seeds, 1)) + own - drop * (np.arange(len(deviations))[::-1] == 0)


def rate_of_differences(simulated: Floats) -> float:
    """Return the share of studies in which some pair is shown to differ."""
    return float(np.mean([all_pairs(study, num_draws=NUM_DRAWS).differ().any() for study in simulated]))


def check_level(num_seeds: int, deviations: Floats, num_studies: int) -> None:
    rate = rate_of_differences(studies(num_studies, num_seeds, deviations))
    assert rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / num_studies), rate


LEVELS = [(n, d) for n in (3, 5, 20) for d in (RECORDED, UNEQUAL, np.ones(9), np.ones(3))]


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_equal_values_are_seldom_shown_to_differ(num_seeds: int) -> None:
    """In at most 5 % of studies; Tukey's studentized range would show a difference in 8 to 14 %."""
    check_level(num_seeds, RECORDED, 300)


@pytest.mark.slow
@pytest.mark.parametrize(("num_seeds", "deviations"), LEVELS)
def test_equal_values_are_seldom_shown_to_differ_in_many_studies(num_seeds: int, deviations: Floats) -> None:
    check_level(num_seeds, deviations, 2000)


def test_a_value_that_is_6_points_lower_is_found_in_most_studies() -> None:
    """With five seeds. Bonferroni's correction of 36 paired t tests found it in 21 % of studies (science review)."""
    assert rate_of_differences(studies(200, 5, RECORDED, drop=6)) > 0.7


def test_p_of_two_values_is_that_of_a_paired_t_test() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 2))
    found = all_pairs(scores)
    assert found.p_range == pytest.approx(stats.ttest_rel(*scores.T).pvalue)


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_p_of_values_with_equal_deviations_is_near_tukeys(num_seeds: int) -> None:
    """Near, not equal: deviations estimated from few seeds differ, and the range of such values is larger."""
    rng, p, tukey = np.random.default_rng(1), [], []
    freedom = (num_seeds - 1) * 8
    for study in rng.normal(size=(30, num_seeds, 9)):
        p.append(all_pairs(study, num_draws=NUM_DRAWS).p_range)
        residual = study - study.mean(0) - study.mean(1, keepdims=True) + study.mean()
        error = np.sqrt((residual**2).sum() / freedom / num_seeds)
        tukey.append(float(stats.studentized_range.sf(np.ptp(study.mean(0)) / error, 9, freedom)))
    assert np.mean(p) == pytest.approx(np.mean(tukey), abs=0.06)


def test_twelve_seeds_are_tested_by_sign_flips() -> None:
    scores = np.random.default_rng(0).normal(size=(12, 3))
    found = all_pairs(scores)
    assert found.intervals.is_by_flips
    differences = scores[:, [0, 0, 1]] - scores[:, [1, 2, 2]]
    assert found.intervals.p_K == pytest.approx(simultaneous(differences).p_K)


def test_a_pair_differs_if_its_interval_excludes_zero() -> None:
    for study in studies(20, 5, RECORDED, drop=5):
        found = all_pairs(study, num_draws=NUM_DRAWS)
        assert (found.differ() == (np.abs(found.sample.mean_K) > found.intervals.half_K)).all()


@pytest.mark.parametrize("num_seeds", [3, 5, 20])
def test_a_range_of_the_margin_is_seldom_shown_to_be_below_it(num_seeds: int) -> None:
    """One of four values is lower by the margin; without spread of the others, false results are likeliest."""
    found = studies(2000, num_seeds, np.array([0.001, 0.001, 0.001, 0.3]), drop=1)
    differences_NSK = (found[..., [0, 0, 0, 1, 1, 2]] - found[..., [1, 2, 3, 2, 3, 3]]).transpose(1, 0, 2)
    p_SK = p_within(moments(differences_NSK.reshape(num_seeds, -1)), 1).reshape(2000, -1)
    assert np.mean((p_SK < 0.05).all(1)) == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 2000))
    assert all_pairs(found[0], num_draws=19).are_within(1).tolist() == (p_SK[0] < 0.05).tolist()


def test_an_interval_of_identical_scores_has_no_width_and_a_single_value_has_no_test() -> None:
    found = all_pairs(np.array([[1.0, 1.0, 2.0], [2.0, 2.0, 2.5], [3.0, 3.0, 5.0]]))
    assert (found.intervals.half_K[0], found.intervals.p_K[0]) == (0, 1)
    assert np.isnan(all_pairs(np.ones((3, 1))).p_range)


def test_tasks_are_compared_on_the_seeds_that_they_share() -> None:
    """The tasks differ by 1 on each seed, and seeds vary ten times as much; a test of independent tasks fails."""
    rng = np.random.default_rng(0)
    seeds = rng.normal(0, 10, size=6)
    differences = np.stack([seeds, seeds + 1 + rng.normal(0, 0.1, size=6)], axis=1)
    differences[5, 0] = np.nan
    assert p_alike(differences) == pytest.approx(stats.ttest_rel(*differences[:5].T).pvalue)
    assert p_alike(differences) < 1e-4
    assert stats.ttest_ind(*differences[:5].T, equal_var=False).pvalue > 0.5
    assert math.isnan(p_alike(differences[:, :1]))
    assert math.isnan(p_alike(differences[3:]))  # two seeds


@pytest.mark.parametrize(("num_seeds", "num_tasks"), [(3, 2), (5, 2), (5, 4), (20, 3)])
def test_tasks_with_one_difference_are_seldom_told_apart(num_seeds: int, num_tasks: int) -> None:
    check_level(num_seeds, UNEQUAL[:num_tasks], 100 if num_seeds == 20 else 300)
