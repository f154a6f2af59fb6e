"""The run id: pinned, and blind to everything that is not science."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gmt.errors import UserError
from gmt.records.identity import canonical, run_id, science_of

CONFIG: dict[str, Any] = {
    "model": {"name": "nano", "path": "shipped:nano"},
    "task": {"name": "long_words", "train": {"a": [1, 2.5]}},
    "method": {"name": "gmt", "mask_ratio": 0.8},
    "train": {"learning_rate": 1e-3, "num_epochs": 3},
    "seed": 1,
    "record": {"root": "here"},
    "resources": {"device": "cpu"},
}
FINGERPRINTS = {"model": "sha256:0", "task": "reasoning-gym==0.1.25"}
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def id_of(**changes: object) -> str:
    return run_id(science_of(CONFIG | changes, FINGERPRINTS))


def test_the_id_is_pinned() -> None:
    # A change here makes every run that was ever recorded a stranger: never without a note in CHANGELOG.
    assert id_of() == "c05cbf6150e4fd19"
    assert id_of(seed=2) == "81a67d8d429a624d"


def test_where_and_how_a_run_runs_is_not_in_the_id() -> None:
    assert id_of(record={"root": "there"}, resources={"device": "cuda"}, tracking={"uri": None}) == id_of()


@pytest.mark.parametrize("group", ["model", "task", "method", "train"])
def test_every_group_of_science_is_in_the_id(group: str) -> None:
    assert id_of(**{group: CONFIG[group] | {"other": 1}}) != id_of()


def test_fingerprints_are_in_the_id() -> None:
    assert run_id(science_of(CONFIG, FINGERPRINTS | {"model": "sha256:1"})) != id_of()


@given(st.dictionaries(st.text(), PLAIN, max_size=5))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    assert run_id(value) == run_id(dict(reversed(value.items())))


@given(st.dictionaries(st.text(), PLAIN, max_size=5))
def test_the_canonical_form_is_stable(value: dict[str, Any]) -> None:
    assert canonical(canonical(value)) == canonical(value)


def test_a_number_has_one_form() -> None:
    assert id_of(method={"name": "gmt", "mask_ratio": 0}) == id_of(method={"name": "gmt", "mask_ratio": 0.0})
    assert id_of(method={"x": 1}) != id_of(method={"x": True})
    assert id_of(method={"x": (1, 2)}) == id_of(method={"x": [1, 2]})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, {1: 2}])
def test_a_value_without_a_stable_form_is_an_error_that_names_it(value: object) -> None:
    with pytest.raises(UserError, match=r"method\.x"):
        id_of(method={"x": value})
