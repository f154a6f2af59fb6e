"""Decisions on comparisons by their intervals, and the outcome of a question by its decisions.

Shapes: N seeds, K comparisons.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from gmt.verdicts.intervals import Floats, Moments, moments, p_beyond, p_within, simultaneous, t_limit
from gmt.verdicts.question import Question
from gmt.verdicts.verdict import Decision, Outcome


@dataclass(frozen=True, kw_only=True)
class Decided:
    """The decisions on K comparisons.

    Args:
        sample: the moments of the differences.
        half_K: half the width of the interval beside each decision, which never contradicts it; NaN without a test.
        p_K: p of the claim; NaN without a test.
        decisions: the decision on each comparison.
        is_by_flips: whether sign flips gave the intervals that share the level.
    """

    sample: Moments
    half_K: Floats
    p_K: Floats
    decisions: tuple[Decision, ...]
    is_by_flips: bool


def decide_differences(
    question: Question, differences_NK: Floats, level: float, *, step_K: Floats | float = float("nan")
) -> Decided:
    """Return the decisions of a question on comparisons.

    Args:
        question: the question; its claim, measure and margin are used.
        differences_NK, step_K: see gmt.verdicts.intervals.moments.
        level: the probability of a false verdict.
    """
    sample, corrected = moments(differences_NK, step_K), simultaneous(differences_NK, level, step_K=step_K)
    uncorrected_K = np.where(sample.is_equal_K, 0.0, t_limit(level, sample.freedom_K) * sample.error_K)
    half_K = np.where(
        sample.is_tested_K | sample.is_equal_K, uncorrected_K if question.is_of_all else corrected.half_K, np.nan
    )
    per_comparison = zip(sample.mean_K, half_K, corrected.half_K, sample.is_equal_K, strict=True)
    return Decided(
        sample=sample,
        half_K=half_K,
        p_K=_p_of_claim(question, sample, corrected.p_K),
        decisions=tuple(_decision(question, *values) for values in per_comparison),
        is_by_flips=corrected.is_by_flips,
    )


def _p_of_claim(question: Question, sample: Moments, p_corrected_K: Floats) -> Floats:
    if question.claim == "equivalent":
        return p_within(sample, question.margin)
    if question.claim == "not_worse":
        sign = 1 if question.more_is_better else -1
        return p_beyond(sample, -sign * question.margin, is_below=not question.more_is_better)
    return p_corrected_K


def _decision(question: Question, mean: float, half: float, corrected_half: float, is_equal: bool) -> Decision:
    if is_equal:
        return "equal"
    if np.isnan(half):
        return "not tested"
    margin, sign = question.margin, 1 if question.more_is_better else -1
    low, high = sign * mean - half, sign * mean + half
    if question.claim == "not_worse":
        if low > -margin:
            return "not worse"
        if high >= -margin:
            return "undecided"
        return "worse" if sign * mean + corrected_half < -margin else "beyond the margin, uncorrected"
    is_within = -margin < low and high < margin
    if question.claim == "equivalent":
        if is_within:
            return "equivalent"
        if abs(mean) - half <= margin:
            return "undecided"
        direction: Decision = "better" if mean * sign > 0 else "worse"
        return direction if abs(mean) - corrected_half > margin else "beyond the margin, uncorrected"
    if low > 0 or high < 0:
        return "better" if low > 0 else "worse"
    return "equivalent" if is_within else "undecided"


_HOLDS: Mapping[str, tuple[Decision, ...]] = {
    "equivalent": ("equivalent", "equal"),
    "not_worse": ("not worse", "equal"),
    "different": ("better", "worse"),
    "better": ("better",),
}
_OPPOSITE: Mapping[str, tuple[Decision, ...]] = {
    "equivalent": ("better", "worse"),
    "not_worse": ("worse",),
    "different": ("equivalent", "equal"),
    "better": ("equivalent", "equal", "worse"),
}


def outcome_of(question: Question, decisions: Collection[Decision]) -> Outcome:
    """Return the outcome of a question by the decisions on all of its comparisons."""
    if all(decision == "not tested" for decision in decisions):
        return "not tested"
    holds = [decision in _HOLDS[question.claim] for decision in decisions]
    opposite = [decision in _OPPOSITE[question.claim] for decision in decisions]
    if all(holds):
        return "shown"
    if question.is_of_all:
        return "refuted" if any(opposite) else "undecided"
    if any(holds):
        return "partly shown"
    return "refuted" if all(opposite) else "undecided"
