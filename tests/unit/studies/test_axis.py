"""The axis of a study: read by its path in any group; a setting that can't be one is refused."""

from pathlib import Path
from typing import Any

import pytest

from gmt.axis import Axis
from gmt.errors import UserError
from gmt.studies.axis_faults import faults_of_axis
from gmt.studies.grid import Point, StudySettings
from gmt.studies.opened import planned
from gmt.studies.tracked import mirrored
from tests.finished import plan_of

GMT = {"sft": {"method": "sft"}, "gmt": {"method": "gmt", "method.mask_ratio": [0.5, 0.9]}}


@pytest.mark.parametrize(
    ("setting", "name", "plural"),
    [
        ("method.mask_ratio", "mask ratio", "mask ratios"),
        ("method.rank", "rank", "ranks"),
        ("train.learning_rate", "learning rate", "learning rates"),
        ("merge.alpha", "alpha", "alphas"),
        ("task.train.sums.num_examples", "number of examples", "numbers of examples"),
    ],
)
def test_an_axis_is_called_in_plain_words(setting: str, name: str, plural: str) -> None:
    assert (Axis(setting).name, Axis(setting).plural) == (name, plural)


def test_a_value_is_read_by_its_path_in_any_group() -> None:
    config: dict[str, Any] = {"merge": {"name": "wise_ft", "alpha": 0.25}, "selection": None, "seed": 1}
    assert Axis("merge.alpha").value(config) == 0.25
    assert Axis("merge.beta").value(config) is None
    assert Axis("selection.fraction").value(config) is None


@pytest.mark.parametrize("value", ["0.5", True, [0.5], {"a": 1}, float("inf")])
def test_a_value_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"study.axis must name a setting whose values are numbers, got method.x="):
        Axis("method.x").value({"method": {"x": value}})


def test_rates_and_ranks_are_on_a_logarithmic_scale_over_more_than_a_decade() -> None:
    assert Axis("train.learning_rate").is_logarithmic([1e-4, 3e-3])
    assert Axis("method.rank").is_logarithmic([2, 64])
    assert not Axis("method.rank").is_logarithmic([2, 4, 8])
    assert not Axis("train.learning_rate").is_logarithmic([0, 1e-3])
    assert not Axis("method.mask_ratio").is_logarithmic([0.01, 0.9])
    assert not Axis("method.rank").is_logarithmic([])


@pytest.mark.parametrize(
    ("axis", "sentence"),
    [
        ("seed", "study.axis must not be seed: runs are compared on the same seed"),
        ("", "study.axis must be a text that is not empty, got ''"),
        (3, "study.axis must be a text that is not empty, got 3"),
        ("train.warmup_ratio", "must not be the setting that study.tuning tunes, got train.warmup_ratio"),
    ],
)
def test_a_setting_that_can_be_no_axis_is_refused(axis: Any, sentence: str) -> None:
    tuning = {"setting": "train.warmup_ratio"}
    with pytest.raises(UserError, match=sentence):
        StudySettings(name="s", question="?", shared={}, arms=GMT, axis=axis, tuning=tuning)


@pytest.mark.parametrize(
    ("axis", "sentence"),
    [
        (
            "method.mask_rato",
            "must name a setting of some run, got 'method.mask_rato'; did you mean 'method.mask_ratio'",
        ),
        ("method.scope", "must name a setting whose values are numbers, got method.scope='tensor'"),
        ("method", "must name a setting whose values are numbers, got method=a group of settings"),
        ("train.learning_rate", "must name a setting that takes several values in some arm, got 'train.learning_rate'"),
    ],
)
def test_an_axis_that_fits_no_run_is_refused_when_the_study_is_planned(
    tmp_path: Path, axis: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=rf"study\.axis {sentence}".replace("(", r"\(")):
        plan_of(tmp_path, GMT, [1], axis=axis)


def test_the_axis_of_a_study_can_be_typed(tmp_path: Path) -> None:
    root = f"record.root={tmp_path}"
    plan, _ = planned(["study=lora_rank", "+study.baseline=lora", root], None)
    assert (plan.study.axis, plan.study.baseline) == ("method.rank", "lora")
    with pytest.raises(UserError, match=r"study\.axis must name a setting of some run, got 'method\.rank'"):
        planned(["study=quickstart", "+study.axis=method.rank", root], None)


def test_the_default_axis_may_be_constant(tmp_path: Path) -> None:
    assert plan_of(tmp_path, {"sft": {"method": "sft"}}, [1, 2]).study.along == Axis("method.mask_ratio")


def test_a_typed_value_of_the_axis_is_enough() -> None:
    study = StudySettings(name="s", question="?", shared={}, arms={"a": {}}, axis="method.rank")
    runs = [(Point(arm="a", overrides=(), varied=()), {"method": {"rank": 4}})]
    assert faults_of_axis(study, runs, ["method.rank"]) == []
    assert len(faults_of_axis(study, runs, [])) == 1


def test_a_line_with_a_number_at_some_points_only_is_refused() -> None:
    study = StudySettings(name="s", question="?", shared={}, arms={"a": {}}, axis="method.rank")
    points = [Point(arm="a", overrides=(), varied=(f"method.rank={rank}", "seed=1")) for rank in ("null", "4")]
    runs = [(point, {"method": {"rank": rank}}) for point, rank in zip(points, (None, 4), strict=True)]
    assert faults_of_axis(study, runs, []) == ["study.axis: method.rank must be a number in all runs of a, or in none"]
    several = [Point(arm="a", overrides=(), varied=(f"method={method}",)) for method in ("sft", "lora")]
    runs = [(point, config) for point, (_, config) in zip(several, runs, strict=True)]
    assert not faults_of_axis(StudySettings(name="s", question="?", shared={}, arms={"a": {}}), runs, [])


@pytest.mark.heavy
def test_mlflow_has_the_value_of_the_axis_as_a_tag(tmp_path: Path) -> None:
    sft, two, _ = plan_of(tmp_path, GMT, [1]).runs
    plan = plan_of(tmp_path, GMT, [1])
    assert mirrored(plan, two).tags["gmt.mask_ratio"] == "0.5"
    assert "gmt.mask_ratio" not in mirrored(plan, sft).tags
    rates = {"sft": {"method": "sft", "train.learning_rate": [1e-3, 2e-3]}}
    along = plan_of(tmp_path, rates, [1], axis="train.learning_rate")
    assert [mirrored(along, run).tags["gmt.learning_rate"] for run in along.runs] == ["0.001", "0.002"]
