"""Questions with one right answer: how the answer is found in what a model says."""

from pathlib import Path
from typing import Any

import pytest

from gmt.errors import UserError
from gmt.tasks.dataset import HeldOut
from tests.unit.tasks.test_dataset import data, write


def held_out(path: str, **changes: Any) -> HeldOut:
    plain = {"columns": {"prompt": "q", "answer": "a"}, "prompt_template": "{prompt}", "max_new_tokens": 4}
    return HeldOut(**{"data": data(path), "answer_pattern": None} | plain | changes)


@pytest.mark.parametrize(
    ("pattern", "column", "right", "wrong"),
    [
        (r"(-)?\d+", "4", ["it is 4", "3, no, 4"], ["5", "none", ""]),
        (r"#### (\d+)|(\d+)", "#### 4", ["4", "so 4", "1 #### 4"], ["#### 5", "x", "4 #### 5"]),
        (r"#### (\d+)|(\d+)", "4", ["4", "#### 4"], ["5"]),
        (r"(?:a(x)?b|c(y)?d)", "ab", ["ab", "cd ab"], ["cd", "axb"]),
        (r"(\w+) (\w+)", "one two", ["one three"], ["two one"]),
        (r"\d+", "a 4", ["4"], ["44"]),
        (None, " 4\n", ["4", " 4 "], ["4."]),
    ],
)
def test_the_answer_is_the_first_group_that_takes_part_or_the_whole_match(
    tmp_path: Path, pattern: str | None, column: str, right: list[str], wrong: list[str]
) -> None:
    suite = held_out(write(tmp_path, [{"q": "?", "a": column}]), answer_pattern=pattern).suite("own")
    assert [suite.score(0, text) for text in right] == [1.0] * len(right)
    assert [suite.score(0, text) for text in wrong] == [0.0] * len(wrong)


def test_a_pattern_that_finds_nothing_in_an_answer_is_no_answer(tmp_path: Path) -> None:
    """It would find the same nothing in whatever a model says, and all would be right."""
    path = write(tmp_path, [{"q": "?", "a": "4"}] * 3)
    with pytest.raises(
        UserError, match=r"row 1 must hold an answer that .* finds, got '4' \(3 rows in all are wrong\)"
    ):
        held_out(path, answer_pattern=r"\d*").suite("own")


@pytest.mark.parametrize(
    "pattern", ["(", "a{99999999999}", "(" * 5000 + ")" * 5000, 5, "", "(?P<a>x)(?P<a>y)", "[z-a]"]
)
def test_a_pattern_that_is_none_is_refused_when_the_run_is_planned(tmp_path: Path, pattern: object) -> None:
    with pytest.raises(UserError, match="answer_pattern must be a"):
        held_out(write(tmp_path, [{"q": "?", "a": "4"}]), answer_pattern=pattern)


def test_conversations_are_asked_by_their_one_question(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "2 + 2"}, {"role": "assistant", "content": "4"}]
    suite = held_out(write(tmp_path, [{"m": turns}]), columns={"messages": "m"}).suite("own")
    assert (suite.prompts, suite.score(0, "4")) == (["2 + 2"], 1.0)
    longer = write(tmp_path, [{"m": turns}, {"m": turns * 2}])
    with pytest.raises(UserError, match="row 2 must hold a user's turn and an answer"):
        held_out(longer, columns={"messages": "m"}).suite("own")


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        held_out("x", data={"path": "x"}, columns={"prompt": "q"}, answer_pattern="(", max_new_tokens=0)
    assert [sentence.partition(" ")[0] for sentence in caught.value.sentences] == [
        "data", "max_new_tokens", "columns", "answer_pattern",
    ]  # fmt: skip
