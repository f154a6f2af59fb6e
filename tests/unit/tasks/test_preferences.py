"""Preferences whose answers are whole conversations keep every turn, or are refused by their row."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from trl.data_utils import maybe_extract_prompt

from gmt.errors import UserError
from gmt.tasks.protocol import Preference
from tests.unit.tasks.test_dataset import task, write

COLUMNS = {name: name for name in ("prompt", "chosen", "rejected")}
IMPLICIT = {name: name for name in ("chosen", "rejected")}
SYSTEM = {"role": "system", "content": "Answer in Roman numerals."}
FIRST = [{"role": "user", "content": "what is 3?"}, {"role": "assistant", "content": "III"}]
LAST = {"role": "user", "content": "plus 1?"}


def says(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def preferences(folder: Path, rows: list[dict[str, Any]], columns: dict[str, str], **how: Any) -> list[Preference]:
    plain = {"prompt_template": "{prompt}", "chat_template": "tulu"}
    made = task(write(folder, rows), columns, **plain | how).train_examples()
    return [example for example in made if isinstance(example, Preference)]


@pytest.mark.parametrize(("system", "earlier", "has_prompt"), list(product([False, True], [0, 1, 2], [False, True])))
def test_the_turns_before_the_last_answer_are_the_prompt(
    tmp_path: Path, system: bool, earlier: int, has_prompt: bool
) -> None:
    before = [SYSTEM] * system + FIRST * earlier + [LAST]
    row: dict[str, Any] = {"chosen": [*before, says("IV")], "rejected": [*before, says("4")]}
    row |= {"prompt": "plus 1?"} if has_prompt else {}
    (found,) = preferences(tmp_path, [row], COLUMNS if has_prompt else IMPLICIT)
    by_trl = maybe_extract_prompt(row)
    assert found.prompt == by_trl["prompt"] == before
    assert [says(found.chosen)] == by_trl["chosen"]
    assert [says(found.rejected)] == by_trl["rejected"]


@pytest.mark.parametrize("prompt", [[LAST], [SYSTEM, LAST], [SYSTEM, *FIRST, LAST]])
def test_a_prompt_of_turns_comes_before_answers_of_one_turn(tmp_path: Path, prompt: list[dict[str, str]]) -> None:
    """As TRL's own format has it: explicit prompts."""
    row = {"prompt": prompt, "chosen": [says("IV")], "rejected": [says("4")]}
    assert maybe_extract_prompt(row) == row
    assert preferences(tmp_path, [row], COLUMNS) == [Preference(prompt=prompt, chosen="IV", rejected="4")]
    again = row | {"chosen": [*prompt, says("IV")], "rejected": [*prompt, says("4")]}
    assert preferences(tmp_path, [again], COLUMNS) == [Preference(prompt=prompt, chosen="IV", rejected="4")]
    texts = row | {"chosen": "IV", "rejected": "4"}
    assert preferences(tmp_path, [texts], COLUMNS) == [Preference(prompt=prompt, chosen="IV", rejected="4")]


def test_the_prompt_template_is_of_the_last_question(tmp_path: Path) -> None:
    before = [*FIRST, LAST]
    row = {"prompt": "plus 1?", "chosen": [*before, says("IV")], "rejected": [*before, says("4")]}
    (found,) = preferences(tmp_path, [row], COLUMNS, prompt_template="Q: {prompt}")
    assert found.prompt == [*FIRST, {"role": "user", "content": "Q: plus 1?"}]


ONE = [LAST, says("IV")]
WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"rejected": [{"role": "user", "content": "plus 2?"}, says("4")]}, {}, "must hold the same turns before the last"),
    ({"rejected": "4"}, {}, "must hold the same turns before the last answer"),
    ({"prompt": "minus 1?"}, {}, "must hold in column 'prompt' the text of a user's turn in column 'chosen'"),
    ({"chosen": [*ONE, LAST]}, {}, "must hold a chosen answer in column 'chosen', but has none"),
    (
        {"chosen": [SYSTEM, *ONE], "rejected": [SYSTEM, LAST, says("4")]},
        {"chat_template": None},
        "need task.chat_template",
    ),
    (
        {"chosen": [SYSTEM, says("4")], "rejected": [SYSTEM, says("5")], "prompt": SYSTEM["content"]},
        {},
        "'prompt' the text",
    ),
    ({"chosen": [{"role": "tool", "content": "x"}, says("4")]}, {}, "must hold turns with a role of"),
    ({"chosen": [LAST, says("IV") | {"reasoning_content": "3, 4"}]}, {}, "but has reasoning_content beside it"),
    ({"chosen": [LAST, says("IV") | {"weight": 0}]}, {}, "must have no weights"),
]


@pytest.mark.parametrize(("changes", "how", "sentence"), WRONG)
def test_what_cannot_be_kept_is_refused_by_its_row(
    tmp_path: Path, changes: dict[str, Any], how: dict[str, Any], sentence: str
) -> None:
    right = {"prompt": "plus 1?", "chosen": ONE, "rejected": [LAST, says("4")]}
    with pytest.raises(UserError, match=rf"rows\.jsonl, row 2 .*{sentence}.* \(2 rows in all are wrong\)$"):
        preferences(tmp_path, [right, right | changes, right, right | changes], COLUMNS, **how)


def test_answers_alone_need_a_prompt(tmp_path: Path) -> None:
    rows = [{"chosen": "IV", "rejected": "4"}]
    with pytest.raises(UserError, match="row 1 must hold a user's turn before the last answer, but does not"):
        preferences(tmp_path, rows, IMPLICIT)
