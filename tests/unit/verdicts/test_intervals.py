"""Intervals and tests, against examples by hand and by simulation: 3, 5 and 20 seeds."""

import itertools
import math

import numpy as np
import pytest

from gmt.verdicts.intervals import Floats, moments, p_within, simultaneous, t_limit

PAIRS = list(itertools.combinations(range(6), 2))
UNEQUAL = np.array([0.2, 0.9, 1.3, 2.0, 3.2, 5.0])  # deviations of arms as in docs/ratio_insensitivity.csv


def studies(num_studies: int, num_seeds: int, seed: int = 0) -> Floats:
    """All pairs of six arms without a true difference: study, seed, pair."""
    scores = np.random.default_rng(seed).normal(size=(num_studies, num_seeds, 6)) * UNEQUAL
    return scores[..., [a for a, _ in PAIRS]] - scores[..., [b for _, b in PAIRS]]


def test_two_one_sided_tests_by_hand() -> None:
    # differences -1, 0, -1, 0: mean -0.5, standard error 0.288675, 3 degrees of freedom. Against -1.5: t = 3.464102,
    # P(T > t) = 0.020245. Against 1.5: t = -6.9282, P = 0.003082.
    (p,) = p_within(moments(np.array([[-1.0], [0.0], [-1.0], [0.0]])), 1.5)
    assert p == pytest.approx(0.020245, abs=2e-5)


def test_a_shared_level_by_hand() -> None:
    # two comparisons of three pairs each: Sidak's level is 1 - sqrt(0.95) = 0.0253206, t of 2 degrees of freedom there
    # is (1 - level) * sqrt(2 / (1 - (1 - level)**2)) = 6.164
    level = 1 - math.sqrt(0.95)
    limit = (1 - level) * math.sqrt(2 / (1 - (1 - level) ** 2))
    found = simultaneous(np.array([[1.0, 2.0], [2.0, 5.0], [3.0, 2.0]]))
    assert found.half_K[0] == pytest.approx(limit / math.sqrt(3))
    t = 2 * math.sqrt(3)
    alone = 1 - t / math.sqrt(t**2 + 2)  # two-sided p of t with 2 degrees of freedom
    assert found.p_K[0] == pytest.approx(1 - (1 - alone) ** 2)


def test_sign_flips_by_hand() -> None:
    # Twelve differences of 1 +- 1: centred they are +-1, so that a flip's t depends on the sum s of twelve signs alone:
    # t = s / 12 / sqrt((1 - s**2 / 144) / 11). The data's t is 1 / sqrt(12 / 11 / 12) = sqrt(11): |s| >= 9, which means
    # 10 or 12, has a probability of 2 * (1 + 12) / 4096.
    found = simultaneous(np.array([[0.0], [2.0]] * 6))
    assert found.is_by_flips
    draws = 2**11
    assert found.p_K[0] == pytest.approx((1 + draws * 26 / 4096) / (1 + draws))


def test_pairs_without_spread_are_equal_and_a_constant_difference_needs_the_step_of_a_question() -> None:
    found = moments(np.array([[0.0, 0.1, 0.0]] * 3 + [[0.0, 0.1, np.nan]]))
    assert found.is_equal_K.tolist() == [True, False, True]
    assert not found.is_tested_K.any()
    assert p_within(found, 0.02).tolist()[0] == 0
    together = simultaneous(np.array([[0.0, 0.1]] * 3))
    assert (together.half_K[0], together.p_K[0]) == (0, 1)
    assert np.isnan(together.half_K[1])
    known = simultaneous(np.array([[0.0, 0.1]] * 3), step_K=0.005)  # t of 2 degrees at 0.05: 4.3027
    assert known.half_K == pytest.approx([0, 4.3027 * 0.005 / math.sqrt(3)], abs=1e-6)
    by_t = simultaneous(np.array([[0.1]] * 20), step_K=0.005)  # flips of one number have no t
    assert not by_t.is_by_flips
    assert by_t.half_K[0] == pytest.approx(2.0930 * 0.005 / math.sqrt(20), abs=1e-6)


@pytest.mark.parametrize(("num_seeds", "num_studies"), [(3, 1000), (5, 1000), (20, 100)])
def test_false_alarms_among_many_comparisons(num_seeds: int, num_studies: int) -> None:
    """In at most 5 % of studies without a difference is one shown, also where deviations differ 25-fold."""
    found = [simultaneous(study) for study in studies(num_studies, num_seeds)]
    rate = np.mean([(each.p_K <= 0.05).any() for each in found])
    assert rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / num_studies)
    assert rate > 0  # the intervals are no wider than they must be


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [12, 20])
def test_false_alarms_of_sign_flips_in_many_studies(num_seeds: int) -> None:
    rate = np.mean([(simultaneous(study).p_K <= 0.05).any() for study in studies(2000, num_seeds)])
    assert rate == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize(("num_seeds", "level"), [(3, 0.05), (5, 0.05), (20, 0.05), (12, 1 / 2049), (12, 1 / 2050)])
def test_p_and_interval_agree(num_seeds: int, level: float) -> None:
    for study in studies(20, num_seeds, seed=1) + 1.5:
        found, mean_K = simultaneous(study, level), study.mean(0)
        assert ((found.p_K <= level) == (np.abs(mean_K) > found.half_K)).all()


def test_a_level_below_the_smallest_p_of_sign_flips_is_tested_by_t() -> None:
    study = np.linspace(0.9, 1.1, 12)[:, None]  # 2,048 flips: p is 1 / 2,049 at least
    assert simultaneous(study, 1 / 2049).is_by_flips
    found = simultaneous(study, 1 / 2050)
    assert not found.is_by_flips
    assert found.p_K[0] < 1 / 2050
    assert found.half_K[0] < 1


def test_the_limit_of_t() -> None:
    assert t_limit(0.025, np.array([4.0]))[0] == pytest.approx(2.7764, abs=1e-4)  # any table of t
