"""A verdict follows from the intervals that it shows."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gmt.axis import Axis
from gmt.errors import UserError
from gmt.verdicts.decide import decide
from gmt.verdicts.pairs import Choice, pairs_of
from gmt.verdicts.question import Question
from gmt.verdicts.scores import Score, Scores
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


def verdict(asked: Question, found: Scores, **more: Any) -> Verdict:
    return decide(asked, found, axis=Axis(), **more)


def test_pairs_of_the_hardest_studies() -> None:
    choices = [SFT, GMT_1, GMT_9, RMT_9, Choice("hft", None)]
    assert pairs_of(question(), choices) == [(GMT_1, SFT), (GMT_9, SFT)]
    assert pairs_of(question(against="each_other"), choices) == [(GMT_9, GMT_1)]
    assert pairs_of(question(arms="all"), choices) == [(c, SFT) for c in choices[1:]]
    assert len(pairs_of(question(arms="all", against="each_other"), choices)) == 10
    at_both = [*choices, Choice("rmt", 0.1)]
    assert pairs_of(question(against="rmt"), at_both) == [(GMT_1, Choice("rmt", 0.1)), (GMT_9, RMT_9)]
    assert pairs_of(question(values=[0.9]), choices) == [(GMT_9, SFT)]


def test_students_sleep_data() -> None:
    drug_1 = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
    drug_2 = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)
    found = verdict(question(arms=["gmt"], values=[0.9]), scores({SFT: drug_1, GMT_9: drug_2}))
    # R 4: t.test(drug2, drug1, paired = TRUE): t = 4.0621, df = 9, p-value = 0.002833, 0.7001142 to 2.4598858
    (row,) = found.comparisons
    assert (row.low, row.high) == (pytest.approx(0.7001142, abs=1e-6), pytest.approx(2.4598858, abs=1e-6))
    assert row.p == pytest.approx(0.002833, abs=5e-7)
    assert (row.decision, found.outcome, found.n) == ("better", "shown", 10)


def test_a_bad_question_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"study.primary.q.margin must lie in \(0, 1\), got 2"):
        question(margin=2)
    with pytest.raises(UserError, match=r"study.primary.q.claim must be one of equivalent, not_worse, different, bet"):
        question(claim="best")
    with pytest.raises(UserError, match=r"study.primary.q.arms must be a list of arms, or all, got 'gmt'"):
        question(arms="gmt")
    with pytest.raises(UserError, match="target_margin needs measure=forgetting and claim=better, got measure=target"):
        question(target_margin=0.02)
