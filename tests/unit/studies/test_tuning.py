"""Tuning: the same budget for each choice, values that a replay finds again, nothing that a table could mistake."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.studies.expansion import expand
from gmt.studies.grid import StudySettings
from gmt.studies.make_plan import make_plan
from gmt.studies.plan import Plan
from gmt.studies.tuned_points import cells
from gmt.studies.tuning import TuningSettings, best_value
from tests.conftest import CONF
from tests.finished import RESULT

LOW, HIGH = 1e-5, 1e-1
TUNING: dict[str, Any] = {
    "setting": "train.learning_rate",
    "low": LOW,
    "high": HIGH,
    "runs": 8,
    "sampler": "tpe",
    "overrides": {"seed": 11, "task.data_seed": 5000},
}


def tuning(**changed: Any) -> TuningSettings:
    return TuningSettings(**(TUNING | changed))


def score(value: float) -> float:
    """Best at 2e-3."""
    return max(0.0, 1 - abs(math.log10(value / 2e-3)) / 4)


def tried(settings: TuningSettings, name: str, known: Mapping[float, float]) -> tuple[list[float], float | None]:
    """Return the values to try so far, and the best value, which is None until all are known."""
    ranks: dict[float, float | None] = {}
    best = best_value(settings, name, lambda value: ranks.setdefault(value, known.get(value)))
    return list(ranks), best


def spent(settings: TuningSettings, name: str = "gmt") -> tuple[list[float], float]:
    """The whole tuning of one choice, run by run."""
    known: dict[float, float] = {}
    while (best := (progress := tried(settings, name, known))[1]) is None:
        new = [value for value in progress[0] if value not in known]
        assert new
        known |= {value: score(value) for value in new}
    return progress[0], best


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_the_whole_budget_is_spent_and_the_best_value_wins(sampler: str) -> None:
    values, best = spent(tuning(sampler=sampler))
    assert len(set(values)) == 8
    assert all(LOW <= value <= HIGH for value in values)
    assert best == max(values, key=score)


@pytest.mark.heavy
def test_later_values_depend_on_earlier_scores() -> None:
    late = [v for name in "abcdefgh" for v in spent(tuning(runs=16), name)[0][8:]]
    early = [v for name in "abcdefgh" for v in spent(tuning(runs=16), name)[0][:8]]
    assert sum(map(score, late)) / len(late) > sum(map(score, early)) / len(early) + 0.1


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 9), st.sampled_from(["tpe", "grid"]), st.sets(st.integers(0, 8)))
def test_a_replay_asks_for_the_same_values_again(runs: int, sampler: str, done: set[int]) -> None:
    """Whatever is done when a study is planned: no value that a run has tried is forgotten."""
    budget = tuning(runs=runs, sampler=sampler)
    values, _ = spent(budget)
    known = {value: score(value) for number, value in enumerate(values) if number in done}
    to_try, best = tried(budget, "gmt", known)
    assert to_try == values[: len(to_try)]
    assert len(to_try) == runs or set(to_try) - set(known), "something is left to do"
    assert (best is None) == (len(known) < runs)


def test_another_choice_tries_other_values() -> None:
    assert spent(tuning(), "gmt")[0] != spent(tuning(), "rmt")[0]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"low": 0}, r"study\.tuning\.low must be above 0, got 0"),
        ({"high": LOW}, r"study\.tuning\.high must be above study\.tuning\.low, got 1e-05"),
        ({"runs": 1}, r"study\.tuning\.runs must be a whole number of at least 2, got 1"),
        ({"sampler": "cma"}, r"study\.tuning\.sampler must be one of tpe, grid, got 'cma'"),
        ({"overrides": {"seed": [1, 2]}}, r"study\.tuning\.overrides must give each setting one value"),
        ({"overrides": {"train.learning_rate": 1e-3}}, r"must leave train\.learning_rate to study\.tuning\.setting"),
    ],
)
def test_bad_settings_are_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        tuning(**changed)


def study(**tuned: Any) -> StudySettings:
    return StudySettings(
        name="x",
        question="?",
        shared={"task": "tiny", "seed": [1, 2]},
        arms={"sft": {"method": "sft"}, "gmt": {"method": "gmt", "method.mask_ratio": [0.5, 0.9]}},
        tuning=TUNING | {"runs": 3, "sampler": "grid"} | tuned,
    )


def plan(root: Path, made: StudySettings, **cli: list[str]) -> Plan:
    with hydra_on(CONF):
        return make_plan(Composer(), made, {"record.root": [str(root)], **cli})


def test_each_choice_has_the_same_budget_and_the_seed_makes_none(tmp_path: Path) -> None:
    assert [len(cell) for cell in cells(expand(study(), {}), tuning(), axis="method.mask_ratio")] == [2, 2, 2]
    made = plan(tmp_path, study())
    assert [tuned.label for tuned in made.tuned] == ["sft", "gmt mask_ratio=0.5", "gmt mask_ratio=0.9"]
    assert len(made.runs) == 9
    assert made.comparison == []
    assert {planned.run.seed for planned in made.runs} == {11}
    assert [planned.run.seed for planned in made.later] == [1, 2] * 3


def test_a_setting_that_the_tuning_fixes_is_not_tuned_by_itself(tmp_path: Path) -> None:
    fixed = TUNING["overrides"] | {"train.weight_decay": 0.1}
    made = plan(tmp_path, study(overrides=fixed), **{"train.weight_decay": ["0.0", "0.1"]})
    assert [tuned.label for tuned in made.tuned] == ["sft", "gmt mask_ratio=0.5", "gmt mask_ratio=0.9"]
    assert len(made.runs) == 9
    assert {planned.run.train.weight_decay for planned in made.runs} == {0.1}
    assert [planned.run.train.weight_decay for planned in made.later] == [0.0, 0.1] * 6


def test_a_tuning_on_the_questions_of_one_task_of_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must choose other data than the comparison's"):
        plan(tmp_path, study(overrides={"seed": 11, "task.max_new_tokens": 9}), **{"task.max_new_tokens": ["8", "9"]})


def test_the_comparison_follows_at_the_best_values(tmp_path: Path) -> None:
    first = plan(tmp_path, study())
    for planned in first.runs:
        rate = planned.run.train.learning_rate
        if planned.point.arm == "gmt" or rate < 1e-2:
            planned.record.create(planned.run.science, planned.run.config)
            after = {"target": {"mean": score(rate)}, "source": {"mean": 0.9}}
            planned.record.write("result.json", dataclasses.replace(RESULT, after=after).to_json())
            planned.record.set_status("done")
        else:
            planned.record.create(planned.run.science, planned.run.config)
            planned.record.set_status("diverged")
    made = plan(tmp_path, study())
    assert made.later == []
    assert [tuned.best for tuned in made.tuned] == [1e-3, 1e-3, 1e-3]
    assert not any(tuned.is_at_an_end for tuned in made.tuned)
    assert len(made.comparison) == 6
    assert {planned.run.train.learning_rate for planned in made.comparison} == {1e-3}
    assert made.ids == first.ids


def test_tuning_that_makes_a_comparison_unfair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"study\.tuning\.overrides must choose other data than the comparison's"):
        plan(tmp_path, study(overrides={"seed": 11}))
    with pytest.raises(UserError, match=r"train\.learning_rate must not be set, since study\.tuning tunes it"):
        plan(tmp_path, study(), **{"train.learning_rate": ["1e-3"]})
    with pytest.raises(UserError, match=r"study\.tuning can't go with search"):
        plan(tmp_path, study(), search=["asha"], **{"record.evaluate_every": ["2"]})
    with pytest.raises(UserError, match=r"train has no setting 'learning_rat'"):
        plan(tmp_path, study(setting="train.learning_rat"))
