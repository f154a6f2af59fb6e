"""Intervals that include the noise of test questions agree with a bootstrap, simulations and the recorded study."""

import dataclasses
import math

import numpy as np
import pytest

from gmt.axis import Axis
from gmt.verdicts.decide import decide
from gmt.verdicts.pairs import Choice
from gmt.verdicts.question import Question
from gmt.verdicts.question_noise import RightAnswers
from gmt.verdicts.scores import Score
from gmt.verdicts.verdict import Comparison, Verdict

SFT, GMT = Choice("sft", None), Choice("gmt", 0.6)
ASKED = Question(name="q", measure="target", claim="better", arms=["gmt"], against="sft", tasks="apart", margin=0.02)
SUITES = ("a", "b")


def verdict(gmt: np.ndarray, sft: np.ndarray, asked: Question = ASKED) -> Verdict:
    """Return the verdict from right answers [seed, suite, question]."""
    right_answers: RightAnswers = {
        (choice, "t"): {s: dict(zip(SUITES, answers, strict=False)) for s, answers in enumerate(own)}
        for choice, own in ((SFT, sft), (GMT, gmt))
    }
    scores = {
        key: {
            seed: Score(float(np.mean([answers.mean() for answers in own.values()]))) for seed, own in by_seed.items()
        }
        for key, by_seed in right_answers.items()
    }
    return decide(asked, scores, axis=Axis(), right_answers=right_answers)


def comparison(gmt: np.ndarray, sft: np.ndarray) -> Comparison:
    (row,) = verdict(gmt, sft).comparisons
    return row


def answers(
    rng: np.random.Generator, num_seeds: int, num_questions: int, *, num_suites: int = 1, by_seed: float = 0.03
) -> tuple[np.ndarray, np.ndarray]:
    """Return answers of two arms whose chances vary by question and by seed, and are equal in the mean."""
    chance = rng.uniform(0.2, 0.9, size=(2, 1, num_suites, num_questions))
    chance = chance + rng.normal(0, by_seed, size=(2, num_seeds, 1, 1))
    gmt, sft = (rng.uniform(size=chance.shape) < chance).astype(float)
    return gmt, sft


def test_a_difference_of_five_of_two_hundred_questions_might_vanish_for_other_questions() -> None:
    """As in docs/smollm2_sums.md: gmt at 0.6 less sft is -2.3 +- 0.7 over three seeds, by 4, 5 and 5 questions."""
    sft = np.zeros((3, 1, 200))
    sft[:, :, :130] = 1
    gmt = sft.copy()
    for seed, lost in enumerate((4, 5, 5)):
        gmt[seed, 0, 30 : 60 + lost] = 0  # 30 + lost answers are lost, and 30 are gained
        gmt[seed, 0, 130:160] = 1
    result = verdict(gmt, sft)
    (row,) = result.comparisons
    assert (row.estimate, row.high - row.estimate) == (
        pytest.approx(-0.0233, abs=1e-4),
        pytest.approx(0.0072, abs=1e-4),
    )
    assert row.decision == "worse"
    assert row.low_questions < 0 < row.high_questions
    assert "over seeds, [-10." in result.answer
    assert result.notes == (
        "For other test questions, 1 of 1 differences that are shown might vanish: gmt 0.6 less sft.",
    )


@pytest.mark.parametrize(
    ("measure", "claim"), [("target", "equivalent"), ("target", "not_worse"), ("forgetting", "not_worse")]
)
def test_an_equivalence_has_a_note_if_it_might_fail_for_other_questions(measure: str, claim: str) -> None:
    """The arms differ on 50 of 300 questions, and each is right on half of these: the means agree on all seeds."""
    sft = np.tile(np.arange(300) % 2, (3, 1, 1)).astype(float)
    gmt = sft.copy()
    gmt[:, :, :50] = 1 - gmt[:, :, :50]
    gmt[0, 0, 299] = 1 - gmt[0, 0, 299]
    for margin, notes in ((0.02, 1), (0.08, 0)):
        asked = dataclasses.replace(ASKED, claim=claim, measure=measure, margin=margin)
        result = verdict(gmt, sft, asked)
        assert result.outcome == "shown"
        assert len(result.notes) == notes
        if notes:
            assert result.notes[0] == (
                "For other test questions, 1 of 1 differences that are shown to be within 2 points might exceed 2 "
                "points: gmt 0.6 less sft."
            )


def test_the_interval_over_seeds_and_questions_equals_the_one_by_hand() -> None:
    # The mean differences of the questions over the seeds are 0, 1, 1 and 1/3; their error joins the seeds' error.
    sft, gmt = np.zeros((3, 1, 4)), np.array([[[0.0, 1, 1, 0]], [[0, 1, 1, 0]], [[0, 1, 1, 1]]])
    row = comparison(gmt, sft)
    mean_Q = np.array([0, 1, 1, 1 / 3])
    by_questions = 1.959964 * math.sqrt(mean_Q.var(ddof=1) / 4)
    half = math.hypot((row.high - row.low) / 2, by_questions)
    assert (row.low_questions, row.high_questions) == pytest.approx((row.estimate - half, row.estimate + half))


@pytest.mark.parametrize("num_suites", [1, 2])
def test_intervals_agree_with_a_bootstrap_over_seeds_and_questions(num_suites: int) -> None:
    rng = np.random.default_rng(0)
    gmt, sft = answers(rng, 20, 150, num_suites=num_suites)
    difference_NSQ = gmt - sft
    resampled = [
        np.mean(
            [
                difference_NSQ[rng.integers(20, size=20)][:, suite, rng.integers(150, size=150)].mean()
                for suite in range(num_suites)
            ]
        )
        for _ in range(500)
    ]
    row = comparison(gmt, sft)
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert row.high_questions - row.low_questions == pytest.approx(high - low, rel=0.15)


@pytest.mark.parametrize("num_seeds", [3, 5, 20])
def test_intervals_over_seeds_and_questions_cover_the_true_difference(num_seeds: int) -> None:
    """They cover it in 95 % of studies; intervals over the seeds alone cover it less often."""
    rng, hits, hits_of_seeds = np.random.default_rng(1), 0, 0
    for _ in range(200):
        row = comparison(*answers(rng, num_seeds, 100))
        hits += row.low_questions <= 0 <= row.high_questions
        hits_of_seeds += row.low <= 0 <= row.high
    assert hits >= 0.95 * 200 - 3 * math.sqrt(0.05 * 0.95 * 200)
    assert hits_of_seeds < hits


def test_a_pair_without_answers_has_no_interval_over_questions() -> None:
    rng = np.random.default_rng(0)
    gmt, sft = answers(rng, 3, 50)
    scores = {
        (choice, "t"): {seed: Score(float(own[seed].mean())) for seed in range(3)}
        for choice, own in ((SFT, sft), (GMT, gmt))
    }
    right_answers: RightAnswers = {(SFT, "t"): {seed: {"a": sft[seed, 0]} for seed in range(3)}}
    (row,) = decide(ASKED, scores, axis=Axis(), right_answers=right_answers).comparisons
    assert math.isnan(row.low_questions)
