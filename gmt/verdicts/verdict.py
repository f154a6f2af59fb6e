"""The answer to a primary question, with the comparisons that give it, as reports, tables and MLflow show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# shown: as claimed, in all comparisons. partly shown: in some, where the claim is of each. refuted: the opposite is
# shown. undecided: neither. not tested: too few seeds, or no finished runs.
Outcome = Literal["shown", "partly shown", "refuted", "undecided", "not tested"]
# Of a comparison, by its interval. equal: the same score on every seed. equivalent: inside the margin. not worse: no
# bound is worse than the margin. better, worse: the interval lies on one side of 0; where the claim is of all
# comparisons, on one side of the margin, also with the corrected level. beyond the margin, uncorrected: on one side of
# the margin, but not with the corrected level, as some of many comparisons are by chance; nothing is decided. target
# not matched: forgets less, but its target score is not shown to be at most `target_margin` lower. depends on the task:
# the differences on pooled tasks differ, so that their mean says little.
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
    """One choice less another on the same seeds. Scores are fractions; multiply by 100 for points.

    Args:
        task: of the runs; of pooled tasks their names, joined by ` + `.
        choice, against: the names of both, e.g. `gmt 0.9` and `sft`.
        n: the number of seeds that both have.
        estimate: the mean of the differences.
        low, high: the bounds of the interval that no `decision` contradicts; NaN without a test. A claim of all
            comparisons is `better` or `worse` only if the wider interval with the corrected level says so too.
        p: of the claim, corrected for all comparisons of the question where the claim is of each; NaN without a test.
        decision: see Decision.
        p_tasks: of pooled tasks, p of the test that the difference is the same on all; NaN without a test.
        num_diverged: the pairs in which a run diverged; it counts with the base's score.
        estimate_without_diverged: the mean without those pairs; NaN if none is left.
        low_questions, high_questions: bounds that hold for other questions too; NaN where answers are not known.
        assumed_deviation: of pairs that all differ by the same amount, the standard deviation that their interval takes
            instead of 0: that of one question more or less; NaN otherwise.
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
        question: in words.
        outcome: see Outcome.
        answer: one or two sentences, with the deciding comparison's interval.
        confidence: of the intervals, e.g. 0.95.
        test: in words, with how the level is shared.
        about: the population that the intervals are about, in words: the settings that varied, and those that did not.
        n: the least number of seeds of a comparison.
        deciding: the comparison that decides: of `equivalent` the one that reaches farthest, of `not_worse` the one
            with the worst bound, of a claim of each the one with the smallest p; None without a test.
        comparisons: all of them.
        notes: sentences that belong beside the answer: on unfinished runs, on diverged runs, and on differences that
            depend on the task.
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
        """Question and answer."""
        return f"{self.question} {self.answer}"
