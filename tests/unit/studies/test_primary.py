"""A primary question that the study can't answer is one sentence before anything runs."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from gmt.errors import UserError
from gmt.studies.grid import Point, StudySettings
from gmt.studies.primary_faults import faults_of_primary
from gmt.studies.primary_power import power_of_plan
from tests.finished import plan_of

ASKED = {"measure": "target", "claim": "equivalent", "arms": ["gmt"], "against": "sft", "tasks": "apart"}


def study(**given: Any) -> StudySettings:
    return StudySettings(
        name="s", question="?", shared={}, arms={"sft": {}, "gmt": {}, "rmt": {}}, primary={"q": ASKED | given}
    )


def faults(num_seeds: int = 3, typed: Collection[str] = (), **given: Any) -> list[str]:
    runs = [
        (Point(arm=arm, overrides=(), varied=()), {"seed": seed, "method": {"mask_ratio": ratio} if ratio else {}})
        for arm, ratios in {"sft": [None], "gmt": [0.1, 0.9], "rmt": [0.9]}.items()
        for ratio in ratios
        for seed in range(num_seeds)
    ]
    return faults_of_primary(study(**given), runs, typed)


def test_a_question_of_the_study_has_no_fault() -> None:
    assert not faults()
    assert not faults(values=[0.9], against="rmt")
    assert not faults(arms="all", against="each_other")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"arms": ["gmx"]}, "study.primary.q.arms must name arms of the study, got 'gmx'; did you mean 'gmt'? "),
        ({"against": "hft"}, "study.primary.q.against must be an arm of the study or each_other, got 'hft'; "),
        ({"against": "gmt"}, "study.primary.q.arms must leave out study.primary.q.against, got gmt"),
        (
            {"values": [0.9, 0.95]},
            "study.primary.q.values must be values of method.mask_ratio that its arms have, got 0.95; choices: ",
        ),
        (
            {"arms": ["rmt"], "against": "each_other"},
            "study.primary.q must compare at least two choices of the study, got none",
        ),
        ({"num_seeds": 2}, "study.primary.q needs at least 3 seeds for each comparison, got 2"),
    ],
)
def test_what_the_study_does_not_have_is_named(given: dict[str, Any], sentence: str) -> None:
    (fault,) = faults(**given)
    assert fault.startswith(sentence)


def test_overrides_may_leave_a_question_untested() -> None:
    assert not faults(num_seeds=1, typed=["seed"])
    assert not faults(values=[0.5], typed=["method.mask_ratio"])
    assert not faults(arms=["gmt learning_rate=0.1"], typed=["train.learning_rate"])


def test_a_typed_list_that_splits_the_arms_leaves_a_question_untested(tmp_path: Path) -> None:
    arms = {"sft": {"method": "sft"}, "gmt": {"method": "gmt"}}
    listed = {"train.learning_rate": ["0.1", "0.2"]}
    made = plan_of(tmp_path, arms, [1, 2, 3], typed=listed, primary={"q": ASKED})
    assert len(made.runs) == 12
    (warning,) = power_of_plan(made)
    assert warning == "warning: primary question q has no comparison in this plan, so it is not tested"


def test_an_arm_that_the_study_itself_splits_is_refused_as_against(tmp_path: Path) -> None:
    arms = {"sft": {"method": "sft", "train.learning_rate": [0.1, 0.2]}, "gmt": {"method": "gmt"}}
    with pytest.raises(UserError, match=r"q.against must name one arm, got 'sft', which is sft learning_rate=0.1"):
        plan_of(tmp_path, arms, [1, 2, 3], primary={"q": ASKED})


def test_settings_of_a_question_are_checked_as_the_study_is_read() -> None:
    with pytest.raises(UserError, match=r"study.primary.q.margin must lie in \(0, 1\), got 2"):
        study(margin=2)
    with pytest.raises(UserError, match=r"study.primary.q has no setting 'marginn'"):
        study(marginn=0.1)
    with pytest.raises(UserError, match=r"study.primary must be a mapping of questions, got 'flat'"):
        StudySettings(name="s", question="?", shared={}, arms={"a": {}}, primary="flat")  # type: ignore[arg-type]
    assert study().questions[0].margin == 0.02  # the study's


def test_a_question_is_in_no_run_id(tmp_path: Path) -> None:
    arms = {"sft": {"method": "sft"}, "gmt": {"method": "gmt"}}
    asked, plain = plan_of(tmp_path, arms, [1, 2, 3], primary={"q": ASKED}), plan_of(tmp_path, arms, [1, 2, 3])
    assert [planned.run.id for planned in asked.runs] == [planned.run.id for planned in plain.runs]
    assert asked.identity == plain.identity
