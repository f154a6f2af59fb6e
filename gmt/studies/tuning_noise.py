"""The certainty of the value that tuning chose: the values that the same rule chooses for other seeds and questions.

Shapes: R draws, S seeds, Q questions of a suite.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmt.records.record import RunRecord
from gmt.records.right_answers import Right, right_answers_in
from gmt.studies.plan import PlannedRun, Tuned
from gmt.studies.trial_score import WORST, TrialScore, best_of, trial_score

NUM_DRAWS = 1000
_SEED = 0

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TuningNoise:
    """The noise of a value that tuning chose.

    Args:
        shares: the share of draws that choose a value, by the value, the largest share first; without values that no
            draw chooses.
        num_seeds: the number of tuning seeds; with one, the shares do not include the noise of seeds.
        has_questions: whether questions were drawn too, which needs scores that are shares of right answers.
    """

    shares: Mapping[float, float]
    num_seeds: int
    has_questions: bool


class _Answers(NamedTuple):
    """The right answers of a tuning run: to the target questions, and to the source questions before and after."""

    target: Right
    before: Right
    after: Right


class _DrawnScores(NamedTuple):
    """The scores of a run, or their means over the runs of a value, in each draw."""

    target_R: Floats
    forgetting_R: Floats


def noise_of(tuned: Tuned) -> TuningNoise | None:
    """Return the noise of a tuned value by a bootstrap over the tuning's seeds and questions.

    A draw takes seeds and the questions of each suite with replacement, the same ones for every value.

    Returns:
        None if no value is chosen yet, or if neither seeds nor questions can be drawn, because there is one seed and
        the answers to the questions are not known.
    """
    runs = [planned for trials in tuned.trials.values() for planned in trials]
    seeds = sorted({planned.run.seed for planned in runs})
    if tuned.best is None:
        return None
    answers = {planned.run.id: _answers(planned.record, tuned.bound) for planned in runs}
    has_questions = all(answers[planned.run.id] or trial_score(planned.record) == WORST for planned in runs)
    if len(seeds) == 1 and not has_questions:
        return None
    drawn_RS = np.random.default_rng(_SEED).multinomial(len(seeds), [1 / len(seeds)] * len(seeds), size=NUM_DRAWS)
    drawn = {
        value: _mean_over_runs(trials, seeds, drawn_RS, answers if has_questions else {})
        for value, trials in tuned.trials.items()
    }
    chosen = Counter(
        best_of({value: _score(scores, draw).rank(tuned.bound) for value, scores in drawn.items()})
        for draw in range(NUM_DRAWS)
    )
    shares = {value: number / NUM_DRAWS for value, number in chosen.most_common()}
    return TuningNoise(shares=shares, num_seeds=len(seeds), has_questions=has_questions)


def _score(scores: _DrawnScores, draw: int) -> TrialScore:
    return TrialScore(target=float(scores.target_R[draw]), forgetting=float(scores.forgetting_R[draw]))


def _mean_over_runs(
    trials: Sequence[PlannedRun],
    seeds: Sequence[int],
    drawn_RS: NDArray[np.int64],
    answers: Mapping[str, _Answers | None],
) -> _DrawnScores:
    """Return the mean scores of a value over its runs in each draw, which takes each seed `drawn_RS` times."""
    target_R, forgetting_R = np.zeros(NUM_DRAWS), np.zeros(NUM_DRAWS)
    for planned in trials:  # each seed has equally many
        scores = _scores_of_run(planned.record, answers.get(planned.run.id))
        weights_R = drawn_RS[:, seeds.index(planned.run.seed)] / len(trials)
        target_R += weights_R * scores.target_R
        forgetting_R += weights_R * scores.forgetting_R
    return _DrawnScores(target_R, forgetting_R)


def _scores_of_run(record: RunRecord, answers: _Answers | None) -> _DrawnScores:
    score = trial_score(record) or WORST
    if answers is None or score == WORST:
        return _DrawnScores(np.full(NUM_DRAWS, score.target), np.full(NUM_DRAWS, score.forgetting))
    forgetting_R = _mean_over_suites("source", answers.before) - _mean_over_suites("source", answers.after)
    return _DrawnScores(_mean_over_suites("target", answers.target), forgetting_R)


def _mean_over_suites(part: str, right: Right) -> Floats:
    """Return the mean over suites of the share of right answers in each draw; 0 without suites."""
    means = [_drawn_questions(part, suite, len(right_Q)) @ right_Q / len(right_Q) for suite, right_Q in right.items()]
    return np.mean(means, axis=0) if means else np.zeros(NUM_DRAWS)


@lru_cache(maxsize=32)
def _drawn_questions(part: str, suite: str, num_questions: int) -> NDArray[np.uint8]:
    """Return how often each draw takes each question of a suite, as a matrix of R x Q."""
    rng = np.random.default_rng([zlib.crc32(f"{part} {suite}".encode()), num_questions])
    return rng.multinomial(num_questions, [1 / num_questions] * num_questions, size=NUM_DRAWS).astype(np.uint8)


def _answers(record: RunRecord, bound: float | None) -> _Answers | None:
    """Return the right answers of a run; None if they are not known.

    Answers to source questions are read only if there is a bound on forgetting.
    """
    if record.state() != "done":
        return None
    sources = [] if bound is None else ["source"]
    before, after = right_answers_in(record, "before", sources), right_answers_in(record, "after", ["target", *sources])
    if len(before) < len(sources) or len(after) < 1 + len(sources):
        return None
    return _Answers(after["target"], before.get("source", {}), after.get("source", {}))
