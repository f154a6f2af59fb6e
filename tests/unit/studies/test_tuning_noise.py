"""How sure a tuned value is: in how many draws of seeds and questions the same rule chooses it."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gmt.records.record import RunRecord
from gmt.studies.plan import PlannedRun, Tuned
from gmt.studies.tuning_noise import noise_of
from gmt.studies.tuning_words import chosen_again, resampled_in_words
from tests.finished import RESULT

Answers = Mapping[str, np.ndarray]


@dataclasses.dataclass
class Tried:
    """The part of a planned run that noise_of reads."""

    run: Any
    record: RunRecord


@dataclasses.dataclass
class Seeded:
    """The part of a run that noise_of reads."""

    id: str
    seed: int


def tried(root: Path, name: str, seed: int, target: np.ndarray, lost: np.ndarray | None = None) -> PlannedRun:
    """A finished run with the right answers to target questions, and of two source suites those that were lost."""
    record = RunRecord(root, name)
    record.create({}, {})
    after = [{"part": "target", "suite": "words", "score": float(right)} for right in target]
    before, left = [], np.zeros(0)
    if lost is not None:
        left = 1 - lost
        before = [{"part": "source", "suite": suite, "score": 1.0} for suite in "ab" for _ in lost]
        after += [{"part": "source", "suite": suite, "score": float(right)} for suite in "ab" for right in left]
    record.write_lines("answers_before.jsonl", before)
    record.write_lines("answers_after.jsonl", after)
    source = float(left.mean()) if len(left) else 0.9
    result = dataclasses.replace(
        RESULT,
        before={"target": {"mean": 0.0}, "source": {"a": 1.0, "b": 1.0, "mean": 1.0}},
        after={
            "target": {"words": float(target.mean()), "mean": float(target.mean())},
            "source": {"a": source, "b": source, "mean": source},
        },
        forgetting=1 - source,
    )
    record.write("result.json", result.to_json())
    record.finish(attempts=1, started_at=0.0, ended_at=1.0)
    return Tried(run=Seeded(id=name, seed=seed), record=record)  # type: ignore[return-value]


def tuned(trials: Mapping[float, list[PlannedRun]], best: float, bound: float | None = None) -> Tuned:
    return Tuned(
        label="sft",
        setting="train.learning_rate",
        low=1e-4,
        high=1e-2,
        num_done=4,
        num_runs=4,
        best=best,
        bound=bound,
        trials=trials,
        scores={},
    )


def right(number: int, of: int) -> np.ndarray:
    return np.arange(of) < number


def test_questions_are_drawn_together_for_all_values(tmp_path: Path) -> None:
    """Of 200 questions 30 are right at one value only, 20 at the other: the sign of a mean of paired differences."""
    own = np.zeros(200)
    other = np.zeros(200)
    own[:130], other[:100], other[130:150] = 1, 1, 1
    noise = noise_of(tuned({1e-3: [tried(tmp_path, "a", 1, own)], 1e-2: [tried(tmp_path, "b", 1, other)]}, 1e-3))
    assert noise is not None
    assert (noise.num_seeds, noise.has_questions) == (1, True)
    differences = own - other
    expected = stats.norm.cdf((differences.mean() + 0.5 / 200) / (differences.std() / 200**0.5))  # ties go to the first
    assert noise.shares[1e-3] == pytest.approx(expected, abs=0.04)  # 1,000 draws: a standard error of 0.01
    assert sum(noise.shares.values()) == pytest.approx(1)


def test_seeds_are_drawn_together_for_all_values(tmp_path: Path) -> None:
    """On one of two seeds a value is far better, on the other a little worse: three of four draws choose it."""
    values = {1e-3: (150, 100), 1e-2: (100, 105)}
    trials = {
        value: [tried(tmp_path, f"{value}{seed}", seed, right(n, 200)) for seed, n in enumerate(numbers)]
        for value, numbers in values.items()
    }
    noise = noise_of(tuned(trials, 1e-3))
    assert noise is not None
    assert noise.num_seeds == 2
    assert noise.shares[1e-3] == pytest.approx(0.75, abs=0.05)


def test_a_value_that_is_far_better_is_sure(tmp_path: Path) -> None:
    trials = {v: [tried(tmp_path, f"{v}", 1, right(n, 300))] for v, n in ((1e-3, 200), (1e-2, 100))}
    noise = noise_of(sure := tuned(trials, 1e-3))
    assert chosen_again(sure, noise) == "100%"
    assert resampled_in_words([None, noise]) == [
        "A value is chosen again in a resample of the tuning's questions if the same rule chooses it there. With one "
        "tuning seed, the shares do not include the noise of seeds."
    ]


def test_a_bound_is_drawn_with_its_questions(tmp_path: Path) -> None:
    """The better value forgets 10 of 100 questions of each suite, just the bound: half of the draws forget more."""
    good = tried(tmp_path, "good", 1, right(90, 100), right(10, 100))
    safe = tried(tmp_path, "safe", 1, right(50, 100), right(0, 100))
    noise = noise_of(drawn := tuned({1e-3: [safe], 1e-2: [good]}, 1e-2, bound=0.1))
    assert noise is not None
    assert noise.shares[1e-2] == pytest.approx(0.55, abs=0.06)
    assert chosen_again(drawn, noise) == f"{noise.shares[1e-2]:.0%}, 0.001 in {noise.shares[1e-3]:.0%}"


def test_a_run_that_diverged_is_never_chosen_in_a_draw_of_its_seed(tmp_path: Path) -> None:
    lost = tried(tmp_path, "lost", 2, right(200, 200))
    lost.record.set_status("diverged")
    trials = {
        1e-3: [tried(tmp_path, "a", 1, right(120, 200)), tried(tmp_path, "b", 2, right(120, 200))],
        1e-2: [tried(tmp_path, "c", 1, right(199, 200)), lost],
    }
    noise = noise_of(tuned(trials, 1e-3))
    assert noise is not None
    assert noise.shares == {1e-3: pytest.approx(0.75, abs=0.04), 1e-2: pytest.approx(0.25, abs=0.04)}


def test_without_answers_the_seeds_alone_are_drawn(tmp_path: Path) -> None:
    one, two = (tried(tmp_path, name, seed, right(1, 2)) for name, seed in (("a", 1), ("b", 2)))
    (two.record.folder / "answers_after.jsonl").unlink()
    status = two.record.folder / "status.json"
    status.write_text(json.dumps({k: v for k, v in json.loads(status.read_text()).items() if k != "digests"}))
    noise = noise_of(both := tuned({1e-3: [one, two]}, 1e-3))
    assert noise is not None
    assert not noise.has_questions
    assert chosen_again(both, noise) == "100%"
    assert resampled_in_words([noise])[0].startswith(
        "A value is chosen again in a resample of the 2 tuning seeds if the same rule"
    )
    assert resampled_in_words([None]) == []
    assert noise_of(tuned({1e-3: [two]}, 1e-3)) is None
    assert noise_of(dataclasses.replace(both, best=None)) is None
