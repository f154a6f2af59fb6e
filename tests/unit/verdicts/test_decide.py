"""A verdict follows from the intervals that it shows."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gmt.axis import Axis
from gmt.errors import UserError
from gmt.verdicts.decide import decide
from gmt.verdicts.pairs import Choice, pairs_of
from gmt.verdicts.question import Question
from gmt.verdicts.scores import Score, ScoredRun, Scores, scores_of
from gmt.verdicts.verdict import Verdict

SFT, GMT_1, GMT_9, RMT_9 = Choice("sft", None), Choice("gmt", 0.1), Choice("gmt", 0.9), Choice("rmt", 0.9)


def question(**given: Any) -> Question:
    values: dict[str, Any] = {
        "name": "q",
        "measure": "target",
        "claim": "better",
        "arms": ["gmt"],
        "against": "sft",
        "tasks": "apart",
        "margin": 0.02,
    }
    return Question(**values | given)


def scores(choices: Mapping[Choice, Sequence[float]], task: str = "t") -> Scores:
    return {(choice, task): {s: Score(v) for s, v in enumerate(own)} for choice, own in choices.items()}


def verdict(asked: Question, compared: Scores, **more: Any) -> Verdict:
    return decide(asked, compared, axis=Axis(), **more)


def test_pairs_of_questions_over_arms_and_values() -> None:
    choices = [SFT, GMT_1, GMT_9, RMT_9, Choice("hft", None)]
    assert pairs_of(question(), choices) == [(GMT_1, SFT), (GMT_9, SFT)]
    assert pairs_of(question(against="each_other"), choices) == [(GMT_9, GMT_1)]
    assert pairs_of(question(arms="all"), choices) == [(c, SFT) for c in choices[1:]]
    assert len(pairs_of(question(arms="all", against="each_other"), choices)) == 10
    at_both = [*choices, Choice("rmt", 0.1)]
    assert pairs_of(question(against="rmt"), at_both) == [(GMT_1, Choice("rmt", 0.1)), (GMT_9, RMT_9)]
    assert pairs_of(question(values=[0.9]), choices) == [(GMT_9, SFT)]


def test_interval_and_p_of_students_sleep_data_equal_those_of_r() -> None:
    drug_1 = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
    drug_2 = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)
    result = verdict(question(arms=["gmt"], values=[0.9]), scores({SFT: drug_1, GMT_9: drug_2}))
    # R 4: t.test(drug2, drug1, paired = TRUE): t = 4.0621, df = 9, p-value = 0.002833, 0.7001142 to 2.4598858
    (row,) = result.comparisons
    assert (row.low, row.high) == (pytest.approx(0.7001142, abs=1e-6), pytest.approx(2.4598858, abs=1e-6))
    assert row.p == pytest.approx(0.002833, abs=5e-7)
    assert (row.decision, result.outcome, result.n) == ("better", "shown", 10)


def test_the_comparison_with_the_worst_bound_decides_a_claim_of_not_worse() -> None:
    gains = scores({SFT: [0.5, 0.6, 0.7], GMT_1: [0.495, 0.601, 0.69], GMT_9: [0.8, 0.95, 0.99]})
    asked = question(claim="not_worse", margin=0.03)
    for measure, sign in (("target", 1), ("forgetting", -1)):
        turned = {key: {s: Score(sign * score.value) for s, score in own.items()} for key, own in gains.items()}
        decided = verdict(question(claim="not_worse", margin=0.03, measure=measure), turned)
        assert decided.deciding is not None
        assert decided.deciding.choice == "gmt 0.1"
    assert "The interval with the worst bound is that of gmt 0.1 less sft" in verdict(asked, gains).answer


def test_the_verdict_names_the_test_that_decides() -> None:
    few, many = ([0.5 + s * s / 1000 for s in range(n)] for n in (5, 13))
    asked = question(values=[0.9])
    assert verdict(asked, scores({SFT: few, GMT_9: [0.9] * 5})).test == "paired t test on the same seed"
    by_flips = verdict(asked, scores({SFT: many, GMT_9: [0.9] * 13})).test
    assert by_flips == "paired t test on the same seed, by sign flips of the seeds"


def test_a_wrong_question_raises_one_sentence() -> None:
    with pytest.raises(UserError, match=r"study.primary.q.margin must lie in \(0, 1\), got 2"):
        question(margin=2)
    with pytest.raises(UserError, match=r"study.primary.q.claim must be one of equivalent, not_worse, different, bet"):
        question(claim="best")
    with pytest.raises(UserError, match=r"study.primary.q.arms must be a list of arms, or all, got 'gmt'"):
        question(arms="gmt")
    with pytest.raises(UserError, match="against must be an arm where claim=not_worse, got each_other: neither of two"):
        question(claim="not_worse", against="each_other")
    with pytest.raises(UserError, match="target_margin needs measure=forgetting and claim=better, got measure=target"):
        question(target_margin=0.02)


def test_a_run_that_diverged_counts_with_the_bases_score_and_a_note_has_the_mean_without_it() -> None:
    runs = [
        ScoredRun(choice, "t", seed, "done", value, 0.1)
        for choice, values in ((SFT, (0.7, 0.72, 0.71, 0.7)), (GMT_9, (0.74, 0.75, 0.76)))
        for seed, value in enumerate(values)
    ]
    result = verdict(question(values=[0.9]), scores_of([*runs, ScoredRun(GMT_9, "t", 3, "diverged", None, None)]))
    (row,) = result.comparisons
    assert (row.n, row.num_diverged) == (4, 1)
    assert row.estimate == pytest.approx((0.04 + 0.03 + 0.05 - 0.6) / 4)
    assert row.estimate_without_diverged == pytest.approx(0.04)
    assert result.notes == (
        "Runs diverged in 1 comparison, and count with the base's score. Without them: gmt 0.9 less sft on t +4.0 "
        "points instead of -12.0.",
    )


def test_a_pooled_question_is_undecided_if_the_tasks_differ() -> None:
    # as gmt_update 0.7 in docs/ratio_insensitivity.csv: about 0 on one task, 8 points on the other
    own = {SFT: [0.70, 0.71, 0.69, 0.70, 0.72], GMT_9: [0.70, 0.70, 0.69, 0.71, 0.72]}
    other = {SFT: [0.60, 0.61, 0.62, 0.60, 0.61], GMT_9: [0.68, 0.70, 0.69, 0.67, 0.70]}
    result = verdict(question(values=[0.9], tasks="pooled"), scores(own) | scores(other, "u"))
    (row,) = result.comparisons
    assert row.task == "t + u"
    assert row.decision == "depends on the task"
    assert row.p_tasks < 0.001
    assert result.outcome == "undecided"
    ceiling = scores(
        {SFT: [1.0] * 5, GMT_9: [1.0] * 5}
    )  # without spread; such tasks once counted as equal to any other
    (row,) = verdict(question(values=[0.9], tasks="pooled"), ceiling | scores(other, "u")).comparisons
    assert row.decision == "depends on the task"
    alike = verdict(question(values=[0.9], tasks="pooled"), scores(other) | scores(other, "u"))
    assert (alike.outcome, alike.comparisons[0].decision) == ("shown", "better")


def test_less_forgetting_counts_only_if_the_target_score_is_not_lower_by_the_margin() -> None:
    asked = question(measure="forgetting", values=[0.9], target_margin=0.02)
    forgotten = scores({SFT: [0.5, 0.52, 0.51, 0.5], GMT_9: [0.1, 0.13, 0.11, 0.12]})
    kept = scores({SFT: [0.7, 0.71, 0.7, 0.72], GMT_9: [0.701, 0.71, 0.702, 0.719]})
    lost = scores({SFT: [0.7, 0.71, 0.7, 0.72], GMT_9: [0.6, 0.63, 0.61, 0.64]})
    shown = verdict(asked, forgotten, targets=kept)
    assert (shown.outcome, shown.comparisons[0].decision) == ("shown", "better")
    assert shown.confidence == pytest.approx(0.975)  # the target score's test has the other half of the level
    assert verdict(asked, forgotten, targets=lost).comparisons[0].decision == "target not matched"


def test_a_comparison_with_too_few_finished_runs_is_not_tested() -> None:
    result = verdict(question(values=[0.9]), scores({SFT: [0.5, 0.6], GMT_9: [0.5, 0.7]}))
    assert (result.outcome, result.deciding) == ("not tested", None)
    assert result.answer == "Not tested: no comparison has enough finished runs."
    assert verdict(question(), {}).outcome == "not tested"


@pytest.mark.parametrize(
    ("claim", "gmt", "outcome"),
    [
        ("equivalent", [0.701, 0.712, 0.703, 0.704, 0.721], "shown"),
        ("equivalent", [0.75, 0.77, 0.76, 0.76, 0.78], "refuted"),
        ("equivalent", [0.68, 0.75, 0.70, 0.74, 0.72], "undecided"),
        ("equivalent", [0.70, 0.71, 0.70, 0.70, 0.72], "shown"),  # the same scores
        ("not_worse", [0.75, 0.77, 0.70, 0.80, 0.78], "shown"),
        ("not_worse", [0.65, 0.66, 0.64, 0.65, 0.66], "refuted"),
        ("better", [0.701, 0.712, 0.70, 0.698, 0.719], "refuted"),  # inside the margin
        ("different", [0.65, 0.66, 0.64, 0.65, 0.66], "shown"),
    ],
)
def test_the_outcome_of_a_claim(claim: str, gmt: list[float], outcome: str) -> None:
    result = verdict(question(claim=claim, values=[0.9]), scores({SFT: [0.70, 0.71, 0.70, 0.70, 0.72], GMT_9: gmt}))
    assert result.outcome == outcome


@pytest.mark.parametrize(
    ("claim", "gain", "outcome"),
    [
        ("equivalent", 1 / 200, "shown"),
        ("equivalent", 3 / 200, "undecided"),
        ("better", 1 / 200, "refuted"),
        ("better", 100 / 200, "shown"),
        ("not_worse", -100 / 200, "refuted"),
    ],
)
def test_one_question_is_the_deviation_of_a_difference_that_is_the_same_on_all_seeds(
    claim: str, gain: float, outcome: str
) -> None:
    """One of 200 questions is 0.5 points. By hand: +- 2.92 * 0.5 / sqrt(3) = 0.84 for claims of all, else 1.24."""
    own = {SFT: [0.2, 0.3, 0.6], GMT_9: [0.2 + gain, 0.3 + gain, 0.6 + gain]}
    known = {(c, "t"): {s: Score(v, step=1 / 200) for s, v in enumerate(scores)} for c, scores in own.items()}
    result = verdict(question(claim=claim, values=[0.9]), known)
    assert result.outcome == outcome
    assert result.notes == (
        "In 1 comparison, the difference is the same on all seeds, and the effect of one test question is taken as its "
        "standard deviation: gmt 0.9 less sft on t (0.5 points).",
    )


def test_without_numbers_of_questions_the_least_difference_of_scores_counts_as_one_question() -> None:
    own = {SFT: [0.2, 0.3, 0.6], GMT_9: [0.7, 0.8, 1.1], GMT_1: [0.21, 0.3, 0.6]}
    (row,) = verdict(question(values=[0.9]), scores(own)).comparisons
    assert row.assumed_deviation == pytest.approx(0.01)
    saturated = {SFT: [0.0] * 3, GMT_9: [1.0] * 3}  # scores that differ by one question or by a thousand
    assert verdict(question(values=[0.9]), scores(saturated)).outcome == "undecided"
