"""False alarms and power of every kind of verdict, by simulated studies of 3, 5 and 20 seeds.

Rates agree to within three standard errors: of a level of 5 %, 3.3 points over 400 studies and 1.5 over 2,000 (slow).

Shapes: R studies, N seeds, K comparisons.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from gmt.axis import Axis
from gmt.verdicts import intervals
from gmt.verdicts.decide import decide
from gmt.verdicts.decisions import decide_differences, outcome_of
from gmt.verdicts.intervals import Floats
from gmt.verdicts.pairs import Choice, pairs_of
from gmt.verdicts.power import assumed_spread, power
from gmt.verdicts.question import Question
from gmt.verdicts.scores import Score, Scores

SFT, GMT = Choice("sft", None), Choice("gmt", 0.9)
MARGIN, QUESTION = 0.02, 1 / 200
CLAIMS = ("equivalent", "not_worse", "different", "better")
COMPARISONS = [*((claim, "sft") for claim in CLAIMS), ("equivalent", "each_other"), ("different", "each_other")]
SHOWN = ("shown", "partly shown")
SEEDS = (3, 5, 20)
# Numbers of seeds and of studies; sign flips of 20 seeds take longer
STUDIES = [(3, 400), (5, 400), (20, 150), *(pytest.param(n, 2000, marks=pytest.mark.slow) for n in SEEDS)]
FEW_STUDIES = [(n, 150) for n in SEEDS] + STUDIES[3:]  # of whole verdicts, which take longer than decisions


@pytest.fixture(autouse=True)
def fewer_flips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw 1,999 sign flips instead of 9,999, except in slow tests; the level of 20 seeds is then half a point off."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(intervals, "DRAWS", 1999)
    intervals._signs.cache_clear()
    yield
    intervals._signs.cache_clear()


def question(**given: Any) -> Question:
    values: dict[str, Any] = {"name": "q", "measure": "target", "arms": ["gmt"], "against": "sft", "tasks": "apart"}
    return Question(**{**values, "margin": MARGIN, **given})


def differences(
    num_studies: int, num_seeds: int, effects: Sequence[float], *, deviation: float = 0.01, each_other: bool = False
) -> Floats:
    """Return differences [study, seed, comparison] to a baseline, or of all pairs; choices vary independently."""
    size = (num_studies, num_seeds, len(effects) + 1)
    scores = np.random.default_rng(0).normal(size=size) * deviation / math.sqrt(2) + np.array([0, *effects])
    if not each_other:
        return scores[..., 1:] - scores[..., :1]
    earlier, later = zip(*itertools.combinations(range(1, size[2]), 2), strict=True)
    return scores[..., later] - scores[..., earlier]


def rate(
    asked: Question, studies: Floats, outcomes: Collection[str], *, level: float = 0.05, step: float = math.nan
) -> float:
    found = (decide_differences(asked, study_NK, level, step_K=step).decisions for study_NK in studies)
    return sum(outcome_of(asked, decisions) in outcomes for decisions in found) / len(studies)


def is_at_most(found: float, level: float, num_studies: int) -> bool:
    return found <= level + 3 * math.sqrt(level * (1 - level) / num_studies)


def at_the_margin(claim: str) -> float:
    return -MARGIN if claim in ("equivalent", "not_worse") else 0.0


@pytest.mark.parametrize(("num_seeds", "num_studies"), STUDIES)
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_false_claim_of_one_comparison_is_shown_at_the_level(claim: str, num_seeds: int, num_studies: int) -> None:
    """The true difference is the margin, or zero; the interval is narrower than the margin."""
    studies = differences(num_studies, num_seeds, [at_the_margin(claim)], deviation=0.004)
    found = rate(question(claim=claim), studies, SHOWN if claim != "better" else ("shown",))
    level = 0.025 if claim == "better" else 0.05  # one of the two sides counts as better
    assert found == pytest.approx(level, abs=3 * math.sqrt(level * (1 - level) / num_studies))


@pytest.mark.parametrize(("num_seeds", "num_studies"), STUDIES)
@pytest.mark.parametrize(
    ("claim", "against"),
    [*((claim, "sft") for claim in CLAIMS), ("equivalent", "each_other"), ("different", "each_other")],
)
def test_a_false_claim_of_several_comparisons_is_seldom_shown(
    claim: str, against: str, num_seeds: int, num_studies: int
) -> None:
    studies = differences(num_studies, num_seeds, [0, 0, at_the_margin(claim)], each_other=against == "each_other")
    assert is_at_most(rate(question(claim=claim, against=against), studies, SHOWN), 0.05, num_studies)


@pytest.mark.parametrize(("num_seeds", "num_studies"), STUDIES)
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_true_claim_is_seldom_refuted(claim: str, num_seeds: int, num_studies: int) -> None:
    """All true differences equal the margin, at which every claim is still true."""
    effect = -MARGIN if claim in ("equivalent", "not_worse") else MARGIN
    studies = differences(num_studies, num_seeds, [effect] * 3, deviation=0.005)
    assert is_at_most(rate(question(claim=claim), studies, ("refuted",)), 0.05, num_studies)


@pytest.mark.parametrize(("num_seeds", "num_studies"), STUDIES)
@pytest.mark.parametrize("claim", ["equivalent", "not_worse", "different"])
def test_a_true_claim_is_shown_as_often_as_the_plan_says(claim: str, num_seeds: int, num_studies: int) -> None:
    asked = question(claim=claim)
    effect, deviation = (0.0 if asked.is_of_all else MARGIN), {3: 0.008, 5: 0.014, 20: 0.03}[num_seeds]
    found = rate(asked, differences(num_studies, num_seeds, [effect], deviation=deviation), SHOWN)
    planned = power(asked, assumed_spread(pairs_of(asked, [SFT, GMT]), 1, deviation), num_seeds, 0.05)
    assert 0.2 < planned < 0.98
    of_plan = 0.25 / 400 if asked.is_of_all else 0  # the plan of a claim of all draws 400 studies itself
    assert found == pytest.approx(planned, abs=0.01 + 3 * math.sqrt(0.25 / num_studies + of_plan))


@pytest.mark.parametrize("num_studies", [100, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("claim", CLAIMS)
def test_three_looks_share_the_level(claim: str, num_studies: int) -> None:
    """A study gets three looks as its seeds grow; in at most 5 % of studies any look shows a false claim."""
    asked, studies = question(claim=claim), differences(num_studies, 20, [at_the_margin(claim)], deviation=0.005)
    shown = [any(rate(asked, study_NK[None, :n], SHOWN, level=0.05 / 3) for n in SEEDS) for study_NK in studies]
    assert is_at_most(float(np.mean(shown)), 0.05, num_studies)


# In questions: the distance of the mean from the margin or zero, and the deviation before rounding
PARTS_OF_A_QUESTION = {
    "equivalent": ((0, 0.5), (0.25, 0.3), (0.5, 0.2)),
    "different": ((0, 0.3), (0, 0.5), (0, 1.0)),
}


@pytest.mark.parametrize(("num_seeds", "num_studies"), STUDIES)
@pytest.mark.parametrize("claim", ["equivalent", "different"])
def test_scores_in_steps_of_a_question_keep_the_level(claim: str, num_seeds: int, num_studies: int) -> None:
    """In many studies the difference is the same on all seeds; one question then counts as its deviation."""
    asked, truth = question(claim=claim), MARGIN if claim == "equivalent" else 0.0
    for part, deviation in PARTS_OF_A_QUESTION[claim]:
        studies = differences(num_studies, num_seeds, [truth + part * QUESTION], deviation=deviation * QUESTION)
        found = rate(asked, np.round(studies / QUESTION) * QUESTION, SHOWN, step=QUESTION)
        assert is_at_most(found, 0.05, num_studies), (part, deviation, found)


def scores(differences_RN: Floats, task: str = "t") -> list[Scores]:
    return [
        {
            (SFT, task): {s: Score(0.5) for s in range(len(own))},
            (GMT, task): {s: Score(0.5 + d) for s, d in enumerate(own)},
        }
        for own in differences_RN
    ]


@pytest.mark.parametrize(("num_seeds", "num_studies"), FEW_STUDIES)
@pytest.mark.parametrize(
    ("less", "target", "level"),
    [
        (0.0, 0.0, 0.0125),  # forgets as much; forgetting has half the level, and one of its two sides counts as less
        (0.1, -MARGIN, 0.025),  # forgets less, but the target score is lower by the margin; its test has the other half
    ],
)
def test_less_forgetting_at_a_target_score_is_seldom_shown_falsely(
    less: float, target: float, level: float, num_seeds: int, num_studies: int
) -> None:
    asked = question(measure="forgetting", claim="better", target_margin=MARGIN)
    forgotten = scores(differences(num_studies, num_seeds, [-less], deviation=0.005)[..., 0])
    targets = scores(differences(2 * num_studies, num_seeds, [target], deviation=0.005)[num_studies:, :, 0])
    verdicts = [decide(asked, own, axis=Axis(), targets=at) for own, at in zip(forgotten, targets, strict=True)]
    assert is_at_most(float(np.mean([v.outcome == "shown" for v in verdicts])), level, num_studies)


@pytest.mark.parametrize(("num_seeds", "num_studies"), FEW_STUDIES)
def test_tasks_with_one_difference_are_seldom_told_apart_and_tasks_that_differ_seldom_pooled(
    num_seeds: int, num_studies: int
) -> None:
    """A seed moves both tasks in the same direction. A gap of 0.1 between the tasks is found by most studies."""
    asked = question(claim="different", tasks="pooled")
    t, u = (
        differences(2 * num_studies, num_seeds, [0.0], deviation=0.01)[part, :, 0]
        for part in (slice(num_studies), slice(num_studies, None))
    )
    decisions = {
        gap: [
            decide(asked, own | other, axis=Axis()).comparisons[0].decision
            for own, other in zip(scores(t), scores(t / 2 + u + gap, "u"), strict=True)
        ]
        for gap in (0.0, 0.1)
    }
    for decision, level in (("depends on the task", 0.05), ("better", 0.025), ("worse", 0.025)):
        assert is_at_most(float(np.mean([d == decision for d in decisions[0.0]])), level, num_studies)
    assert np.mean([d == "depends on the task" for d in decisions[0.1]]) > {3: 0.5, 5: 0.98, 20: 0.99}[num_seeds]
