"""A study as a union of grids."""

import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given

from gmt.axis import Axis
from gmt.errors import UserError
from gmt.studies.expansion import expand
from gmt.studies.grid import Point, StudySettings, to_override_value
from gmt.studies.opened import study_of_multirun

VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab'\\\" ,=[]{}$().:/1e")
KEYS = st.sampled_from(["method", "seed", "train.lr", "task", "method.mask_ratio"])
AXES = st.dictionaries(KEYS, VALUES | st.lists(VALUES, min_size=1, max_size=3), max_size=4)


def study(shared: dict[str, Any], arms: dict[str, Any]) -> StudySettings:
    return StudySettings(name="s", question="q", shared=shared, arms=arms)


@given(AXES, st.dictionaries(st.sampled_from(["a", "b", "c"]), AXES, min_size=1))
def test_an_arm_has_the_product_of_its_axes(shared: dict[str, Any], arms: dict[str, Any]) -> None:
    points = expand(study(shared, arms), {})
    for arm, own in arms.items():
        lengths = [len(v) if isinstance(v, list) else 1 for v in {**shared, **own}.values()]
        assert sum(point.arm == arm for point in points) == math.prod(lengths)


def test_arms_are_a_union_and_own_settings_win() -> None:
    points = expand(study({"seed": [1, 2], "x": 0}, {"sft": {}, "gmt": {"r": [0.5, 0.8], "x": 1}}), {})
    assert [p.overrides for p in points[:2]] == [("seed=1", "x=0"), ("seed=2", "x=0")]
    assert [p.label for p in points[2:]] == [
        "gmt r=0.5 seed=1",
        "gmt r=0.5 seed=2",
        "gmt r=0.8 seed=1",
        "gmt r=0.8 seed=2",
    ]
    assert all("x=1" in p.overrides for p in points[2:])


def test_a_label_shows_what_the_study_lists_be_it_a_list_of_one() -> None:
    points = expand(study({"seed": [1], "x": 0}, {"sft": {}, "rmt": {"mask_ratio": [0.5]}}), {})
    assert [p.label for p in points] == ["sft seed=1", "rmt mask_ratio=0.5 seed=1"]
    assert [p.varied for p in points] == [(), ()]  # a report has no column for it
    typed = expand(study({"seed": [1, 2]}, {"gmt": {"mask_ratio": [0.5, 0.8]}}), {"mask_ratio": ["0.9"], "lr": ["1"]})
    assert [p.label for p in typed] == ["gmt mask_ratio=0.9 seed=1", "gmt mask_ratio=0.9 seed=2"]


def test_a_typed_key_replaces_the_axis_where_there_is_one_and_holds_for_all_where_there_is_none() -> None:
    arms = {"sft": {"method": "sft"}, "gmt": {"method": "gmt", "method.mask_ratio": [0.5, 0.8]}}
    points = expand(study({"seed": [1, 2]}, arms), {"method.mask_ratio": ["0.9"], "seed": ["7"], "train.lr": ["1"]})
    assert [p.overrides for p in points] == [
        ("method=sft", "seed=7", "train.lr=1"),
        ("method=gmt", "method.mask_ratio=0.9", "seed=7", "train.lr=1"),
    ]


@given(VALUES | st.lists(VALUES, max_size=3))
def test_a_value_survives_hydras_grammar(value: object) -> None:
    override = OverridesParser.create().parse_overrides([f"key={to_override_value(value)}"])[0]
    parsed = override.value()
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [({}, "at least one arm"), ({"a": 1}, r"study\.arms\.a must be"), ({"a": {"seed": []}}, r"study\.arms\.a\.seed")],
)
def test_a_study_that_holds_nothing_is_refused(arms: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        study({}, arms)


def test_a_short_name_begins_with_what_differs_between_runs() -> None:
    varied = ("task=sums", "method.mask_ratio=0.9", "train.learning_rate=0.001", "seed=3")
    point = Point(arm="gmt", overrides=(), varied=varied)
    assert point.short_name(Axis()) == "gmt 0.9 s3 sums learning_rate=0.001"
    assert point.short_name(Axis(), with_seed=False) == "gmt 0.9 sums learning_rate=0.001"
    assert Point(arm="sft", overrides=(), varied=(), stage="tuning").short_name(Axis()) == "sft (tuning)"


def test_each_typed_method_of_a_multirun_is_an_arm_so_that_sft_is_the_baseline() -> None:
    made, axes = study_of_multirun({"study": None}, {"method": ["sft", "gmt"], "seed": ["1", "2"]})
    points = expand(made, axes)
    assert [point.label for point in points] == ["sft seed=1", "sft seed=2", "gmt seed=1", "gmt seed=2"]
    assert points[-1].overrides == ("method=gmt", "seed=2")
    assert made.baseline in made.arms


@pytest.mark.parametrize("methods", [[], ["gmt", "gmt"], ["'a b'", "sft"]])
def test_methods_that_can_not_name_arms_stay_an_axis(methods: list[str]) -> None:
    typed = {"seed": ["1"]} | ({"method": methods} if methods else {})
    made, axes = study_of_multirun({}, typed)
    assert (list(made.arms), axes) == (["run"], typed)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shared": [1, 2]}, r"study\.shared must be a mapping of settings, got \[1, 2\]"),
        ({"arms": {"sft": 3}}, r"study\.arms\.sft must be a mapping of settings, got 3"),
        ({"shared": {"study": "other"}}, r"study\.shared must hold settings of runs, got study, which is the study's"),
        ({"arms": {"sft": {"study.name": "x"}}}, r"study\.arms\.sft must hold settings of runs, got study\.name, .*"),
        ({"baseline": "sfft"}, "study\\.baseline must name an arm, got 'sfft'; choices: sft"),
    ],
)
def test_a_wrong_study_is_refused_in_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{sentence}$"):
        StudySettings(**{"name": "s", "question": "q", "shared": {}, "arms": {"sft": {}}} | changes)


def test_a_baseline_may_be_an_arm_at_a_varied_setting() -> None:
    arms = {"gmt": {"train.learning_rate": [1, 2]}}
    assert StudySettings(name="s", question="q", shared={}, arms=arms, baseline="gmt learning_rate=1")
