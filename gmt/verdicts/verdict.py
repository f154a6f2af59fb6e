"""The answer to a primary question, with the comparisons that give it, as reports, tables and MLflow show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# shown: all comparisons are as claimed. partly shown: some are, and the claim is of each. refuted: the opposite is
# shown. undecided: neither is shown. not tested: there are too few seeds, or no finished runs.
Outcome = Literal["shown", "partly shown", "refuted", "undecided", "not tested"]
# The decision on a comparison by its interval. equal: both scores are the same on every seed. equivalent: the interval
# lies inside the margin. not worse: no bound is worse than the margin. better, worse: the interval lies on one side of
# 0; for a claim of all comparisons, beyond the margin, also at the corrected level. beyond the margin, uncorrected: the
# interval lies beyond the margin, but not at the corrected level; some of many comparisons do so by chance, so nothing
# is decided. target not matched: the choice forgets less, but its target score is not shown to be at most
# `target_margin` lower. depends on the task: the differences on pooled tasks differ, so that their mean says little.
Decision = Literal[
    "better",
    "worse",
    "equivalent",
    "equal",
    "not worse",
    "undecided",
    "beyond the margin, uncorrected",
    "target not matched",
    "depends on the task",
    "not tested",
]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The difference of two choices on the same seeds. Scores are fractions; multiply by 100 for points.

    Args:
        task: the task of the runs; for pooled tasks their names, joined by ` + `.
        choice, against: the names of both choices, e.g. `gmt 0.9` and `sft`; the difference is the first less the
            second.
        n: the number of seeds that both choices have.
        estimate: the mean of the differences.
        low, high: the bounds of the interval; NaN without a test. `decision` never contradicts it. For a claim of all
            comparisons, `better` and `worse` also need the wider interval at the corrected level.
        p: the p of the claim; for a claim of each comparison, corrected for the question's comparisons. NaN without a
            test.
        decision: see Decision.
        p_tasks: for pooled tasks, the p of the hypothesis that the difference is the same on all; NaN without a test.
        num_diverged: the number of pairs in which a run diverged; such a run counts with the base's score.
        estimate_without_diverged: the mean without those pairs; NaN if no pair remains.
        low_questions, high_questions: bounds that hold for other questions too; NaN where answers are not known.
        assumed_deviation: for pairs that all differ by the same amount, the standard deviation that their interval
            assumes instead of 0, which is the change by one question; NaN for other pairs.
    """

    task: str
    choice: str
    against: str
    n: int
    estimate: float
    low: float
    high: float
    p: float
    decision: Decision
    p_tasks: float = float("nan")
    num_diverged: int = 0
    estimate_without_diverged: float = float("nan")
    low_questions: float = float("nan")
    high_questions: float = float("nan")
    assumed_deviation: float = float("nan")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to one primary question.

    Args:
        name: the key in `study.primary`.
        question: the question as a sentence.
        outcome: see Outcome.
        answer: one or two sentences, with the deciding comparison's interval.
        confidence: the confidence level of the intervals, e.g. 0.95.
        test: a phrase that names the test and its correction for several comparisons.
        about: a sentence on the population that the intervals are about: what varied, and what did not.
        n: the least number of seeds of a comparison.
        deciding: the comparison on which the outcome depends most: for `equivalent` the one whose interval reaches
            farthest from 0, for `not_worse` the one with the worst bound, for a claim of each comparison the one with
            the smallest p; None without a test.
        comparisons: all comparisons of the question.
        notes: sentences to show beside the answer: on unfinished runs, on diverged runs, and on differences that depend
            on the task.
    """

    name: str
    question: str
    outcome: Outcome
    answer: str
    confidence: float
    test: str
    about: str
    n: int
    deciding: Comparison | None
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The question and its answer."""
        return f"{self.question} {self.answer}"
