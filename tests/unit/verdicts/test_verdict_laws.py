"""Laws of verdicts over random scores: no interval contradicts its decision, and a false claim is seldom shown."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from gmt.axis import Axis
from gmt.verdicts.decide import decide
from gmt.verdicts.pairs import Choice, columns_of, pairs_of
from gmt.verdicts.power import assumed_spread, power, recorded_spread, seeds_needed
from gmt.verdicts.question import OF_EACH, Question
from gmt.verdicts.scores import Score, Scores
from gmt.verdicts.verdict import Comparison

SFT = Choice("sft", None)
GMT = [Choice("gmt", value) for value in (0.1, 0.5, 0.9)]
CLAIMS = ("equivalent", "not_worse", "different", "better")


def question(**given: Any) -> Question:
    values = {"name": "q", "measure": "target", "arms": ["gmt"], "against": "sft", "tasks": "apart", "margin": 0.02}
    return Question(**values | given)


def random_scores(
    seed: int, num_seeds: int, *, deviation: float, effect: float = 0.0, tasks: tuple[str, ...] = ("t",)
) -> Scores:
    """Return scores in steps of one of 200 questions; seeds are shared, and the last choice is better by `effect`."""
    rng, scores = np.random.default_rng(seed), {}
    for task in tasks:
        common = rng.normal(0.7, 0.02, size=num_seeds)
        for choice in (SFT, *GMT):
            own = common + rng.normal(0, deviation, size=num_seeds) + effect * (choice == GMT[-1])
            scores[choice, task] = {s: Score(round(200 * v) / 200) for s, v in enumerate(own)}
    return scores


def agrees(row: Comparison, asked: Question) -> bool:
    """Return whether a comparison's interval agrees with its decision."""
    low, high = (row.low, row.high) if asked.more_is_better else (-row.high, -row.low)
    beyond = asked.margin if asked.is_of_all else 0.0
    return {
        "better": low > beyond,
        "worse": high < -beyond,
        "equivalent": -asked.margin < low and high < asked.margin,
        "beyond the margin, uncorrected": low > asked.margin or high < -asked.margin,
        "equal": row.low == row.high == row.estimate == 0,
        "not worse": low > -asked.margin,
        "undecided": low <= asked.margin and high >= -asked.margin and not (asked.claim in OF_EACH and low > 0),
        "not tested": math.isnan(low),
        "depends on the task": not math.isnan(low),
        "target not matched": low > 0,
    }[row.decision]


@profile(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_seeds=st.sampled_from([2, 3, 5, 13]),
    deviation=st.sampled_from([0.0, 0.002, 0.02, 0.1]),
    effect=st.sampled_from([0.0, 0.02, -0.1]),
    claim=st.sampled_from(CLAIMS),
    measure=st.sampled_from(["target", "forgetting"]),
    against=st.sampled_from(["sft", "each_other"]),
    pooled=st.booleans(),
)
@example(2576, 3, 0.002, 0.0, "equivalent", "target", "each_other", True)  # tasks cancel but for a rounding error
def test_no_interval_contradicts_its_verdict(
    seed: int,
    num_seeds: int,
    deviation: float,
    effect: float,
    claim: str,
    measure: str,
    against: str,
    pooled: bool,
) -> None:
    assume((claim, against) != ("not_worse", "each_other"))
    asked = question(claim=claim, measure=measure, against=against, tasks="pooled" if pooled else "apart")
    found = random_scores(seed, num_seeds, deviation=deviation, effect=effect, tasks=("t", "u"))
    verdict = decide(asked, found, axis=Axis())
    assert len(verdict.comparisons) == 3 * (1 if pooled else 2)
    assert all(agrees(row, asked) for row in verdict.comparisons)
    if verdict.outcome == "shown":
        assert not {"undecided", "not tested"} & {row.decision for row in verdict.comparisons}
    if verdict.deciding is not None and not math.isnan(verdict.deciding.low):
        assert verdict.deciding.low <= verdict.deciding.estimate <= verdict.deciding.high


def test_the_recorded_study_had_no_power_to_show_equivalence() -> None:
    """For nine equal ratios with the recorded deviations, the power is 0 with five seeds; 40 to 70 are needed."""
    choices = [Choice("gmt", value / 10) for value in range(1, 10)]
    asked = question(claim="equivalent", against="each_other")
    spread = assumed_spread(pairs_of(asked, choices), 2, 0.03)
    assert power(asked, spread, 5, 0.05) == 0
    assert 40 < (seeds_needed(asked, spread, 0.05) or 0) < 70


def test_deviations_are_read_from_finished_runs() -> None:
    asked = question(claim="different", values=[0.9])
    found = random_scores(0, 5, deviation=0.02)
    columns = columns_of(asked, pairs_of(asked, [SFT, *GMT]), ["t"])
    own = [found[GMT[-1], "t"][s].value - found[SFT, "t"][s].value for s in range(5)]
    spread = recorded_spread(columns, found)
    assert spread is not None
    assert spread.deviation_K[0] == pytest.approx(np.std(own, ddof=1))
    assert recorded_spread(columns, random_scores(0, 2, deviation=0.02)) is None


def test_a_claim_of_all_is_planned_by_the_pooled_deviation_and_not_the_largest() -> None:
    """Nine choices share a true deviation; its estimates from five seeds differ fourfold, and the plan pools them."""
    choices = [Choice("gmt", value / 10) for value in range(1, 10)]
    asked = question(claim="equivalent", against="each_other")
    pairs, rng = pairs_of(asked, choices), np.random.default_rng(0)
    scores = {(c, "t"): {s: Score(v) for s, v in enumerate(rng.normal(0.7, 0.02, size=5))} for c in choices}
    spread = recorded_spread(columns_of(asked, pairs, ["t"]), scores)
    assert spread is not None
    assert spread.unpooled_K is not None
    assert spread.unpooled_K.max() / spread.unpooled_K.min() > 4
    assert spread.deviation_K == pytest.approx(np.full(len(pairs), 0.02 * math.sqrt(2)), rel=0.2)
    true = seeds_needed(asked, assumed_spread(pairs, 1, 0.02 * math.sqrt(2)), 0.05) or 0
    assert seeds_needed(asked, spread, 0.05) == pytest.approx(true, rel=0.4)
