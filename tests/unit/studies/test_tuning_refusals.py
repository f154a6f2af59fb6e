"""Settings of tuning that are refused, each in one sentence."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import pytest

from gmt.errors import UserError
from gmt.studies.tuning import TuningSettings
from gmt.studies.tuning_faults import faults_of_tuning
from tests.unit.studies.conftest import ARMS, TUNING, Planner

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize(
    ("given_settings", "sentence"),
    [
        ({"seeds": [11, 11]}, r"study\.tuning\.seeds must list different seeds, got \[11, 11\]"),
        ({"seeds": 11}, r"study\.tuning\.seeds must list different seeds, got 11"),
        ({"seeds": [-1]}, r"study\.tuning\.seeds must be a whole number of at least 0, got -1"),
        ({"overrides": {"seed": 3}}, r"study\.tuning\.overrides must leave seed to study\.tuning\.seeds"),
        (
            {"low": 1.0, "high": 1.0002, "runs": 5},
            r"study\.tuning\.runs must be at most the number of values of four digits between low and high, "
            r"got 5 from 1\.0 to 1\.0002",
        ),
        ({"value_per": "task"}, r"study\.tuning\.value_per must be one of arm, point, got 'task'"),
        ({"forgetting_bound": 1}, r"study\.tuning\.forgetting_bound must lie in \[0, 1\), got 1"),
    ],
)
def test_bad_settings_are_refused(given_settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{sentence}$"):
        TuningSettings(**(TUNING | given_settings))


def refusal(planned: Planner, arms: Mapping[str, Mapping[str, Any]] = ARMS, **given_settings: Any) -> str:
    with pytest.raises(UserError) as raised:
        planned(arms, **given_settings)
    (sentence,) = raised.value.sentences
    return sentence


def test_seeds_of_the_study_are_refused_also_those_that_looks_may_add(planned: Planner) -> None:
    other = "must be other than the seeds that the study has"
    assert refusal(planned, on=(11, 1)) == f"study.tuning.seeds {other}, got 11"
    # without any, tuning runs have the seed of conf/config.yaml
    assert refusal(planned, seeds=[]) == f"seed in study.tuning.overrides {other}, got 1"
    asked = {"measure": "target", "claim": "better", "arms": ["gmt"], "against": "sft", "tasks": "apart"}
    looks: dict[str, Any] = {"on": (1, 2, 3), "primary": {"q": asked}, "looks": [3, 11]}
    assert refusal(planned, **looks) == f"study.tuning.seeds {other} or may get by study.looks, got 11"
    assert planned(**looks, typed={"seed": ["4", "5", "6"]}).tuned  # looks add none to seeds that are typed


def test_a_value_for_each_point_needs_an_axis(planned: Planner) -> None:
    one = {"sft": {"method": "sft"}, "gmt": {"method": "gmt", "method.mask_ratio": 0.5}}
    assert refusal(planned, one, value_per="point") == (
        "study.tuning.value_per=point needs an axis that varies, and no arm varies method.mask_ratio"
    )
    assert len(planned(value_per="point").tuned) == 3
    narrowed = planned(value_per="point", typed={"method.mask_ratio": ["0.9"]})
    assert [tuned.label for tuned in narrowed.tuned] == ["sft", "gmt mask_ratio=0.9"]


def test_a_bound_needs_a_source_score(planned: Planner) -> None:
    """Tasks of ours refuse to have none; a plug-in may not."""
    plan = planned(forgetting_bound=0.1)
    tuning = TuningSettings(**(TUNING | {"forgetting_bound": 0.1}))
    task = {**plan.runs[0].run.config["task"], "source": {}}
    run = dataclasses.replace(plan.runs[0].run, config={**plan.runs[0].run.config, "task": task})
    tried, compared = [dataclasses.replace(plan.runs[0], run=run)], plan.compared
    assert list(faults_of_tuning(plan.study, tuning, tried, compared, compared, ())) == [
        "study.tuning.forgetting_bound needs a source score, and task long_words has none"
    ]


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        (
            {"sft": {"method": "sft"}, "wise": {"method": "sft", "merge": "wise_ft"}},
            "study.arms.wise must name the arm of its parents by from: study.tuning chooses a setting for the runs of "
            "the study, and a merge has the values of its parents",
        ),
        (
            {"sft": {"method": "sft"}, "wise": {"from": "sft", "merge": "wise_ft", "train.learning_rate": 1e-3}},
            "train.learning_rate must not be set, since study.tuning tunes it, got train.learning_rate=0.001",
        ),
        (
            {"sft": {"method": "sft"}, "wise": {"from": "sft", "merge": "wise_ft", "task.data_seed": 20000}},
            "study.tuning.overrides must choose other data than the comparison's, e.g. task.data_seed, got the same "
            "task for arm sft",
        ),
    ],
)
def test_merges_that_tuning_can_not_go_with_are_refused(
    planned: Planner, arms: dict[str, dict[str, Any]], sentence: str
) -> None:
    assert refusal(planned, arms) == sentence


def test_a_parent_that_keeps_no_weights_is_refused_before_the_tuning(planned: Planner) -> None:
    arms = {"sft": {"method": "sft", "record.keep_weights": False}, "wise": {"from": "sft", "merge": "wise_ft"}}
    with pytest.raises(UserError, match=r"which must save them: record\.keep_weights must be true, got false"):
        planned(arms)


def test_values_that_the_tuned_setting_refuses_are_named(planned: Planner) -> None:
    with pytest.raises(UserError) as raised:
        planned(setting="train.micro_batch_size", low=1, high=8)
    assert any(
        re.fullmatch(r"arm \w+: train\.micro_batch_size must be a whole number of at least 1, got [\d.]+", sentence)
        for sentence in raised.value.sentences
    )
