"""A user's own data: rows become examples, and what is wrong with them is said with file and row."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from gmt.errors import UserError
from gmt.models.pretrained import SHIPPED
from gmt.tasks.dataset import DatasetTask, HeldOut
from gmt.tasks.protocol import Conversation, Example, Preference, Suite
from gmt.tasks.reasoning_gym import Family

NANO = SHIPPED / "nano"
ROWS = [{"q": f"What is {i} + 1?", "a": str(i + 1)} for i in range(20)]
SUMS = Family(family="basic_arithmetic", settings={"max_terms": 2}, num_examples=3, data_seed=0, max_new_tokens=4)


def write(folder: Path, rows: Sequence[Mapping[str, Any]], kind: str = "jsonl") -> str:
    file = folder / f"rows.{kind}"
    if kind == "parquet":
        Dataset.from_list([dict(row) for row in rows]).to_parquet(str(file))
    elif kind == "json":
        file.write_text(json.dumps(list(rows)))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def data(path: str, **changes: Any) -> dict[str, Any]:
    return {"path": path, "subset": None, "revision": None, "split": "train", "num_examples": None, "seed": 0} | changes


def task(path: str, columns: Mapping[str, str] | None = None, **changes: Any) -> DatasetTask:
    templates = {"prompt_template": "{prompt}\n", "completion_template": "{completion}", "chat_template": None}
    plain = templates | {"target": {"sums": SUMS}, "source": {"sums": SUMS}}
    named = {"name": "t", "data": data(path), "columns": columns or {"prompt": "q", "completion": "a"}}
    return DatasetTask(**(named | plain | changes))


def held_out(path: str, **changes: Any) -> HeldOut:
    plain = {"columns": {"prompt": "q", "answer": "a"}, "prompt_template": "{prompt}", "max_new_tokens": 4}
    return HeldOut(**{"data": data(path), "answer_pattern": None} | plain | changes)


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_rows_become_examples_in_their_order(tmp_path: Path, kind: str) -> None:
    examples = task(write(tmp_path, ROWS, kind)).train_examples()
    assert examples == [Example(prompt=row["q"] + "\n", completion=row["a"]) for row in ROWS]


def test_completions_are_put_into_words_too(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "1 + 1?", "good": "2", "bad": "3"}])
    words = {"prompt_template": "Q: {prompt}\nA:", "completion_template": " {completion}!"}
    plain = task(path, {"prompt": "prompt", "completion": "good"}, **words)
    assert plain.train_examples() == [Example(prompt="Q: 1 + 1?\nA:", completion=" 2!")]
    preferred = task(path, {"prompt": "prompt", "chosen": "good", "rejected": "bad"}, **words)
    assert preferred.train_examples() == [Preference(prompt="Q: 1 + 1?\nA:", chosen=" 2!", rejected=" 3!")]


def test_data_that_ships_inside() -> None:
    columns = {"prompt": "prompt", "completion": "answer"}
    examples = task("shipped:facts.jsonl", columns).train_examples()
    assert Example(prompt="The capital of France is\n", completion="Paris") in examples
    with pytest.raises(UserError, match=r"task\.data\.path must be shipped:NAME .* did you mean 'facts\.jsonl'"):
        task("shipped:fact.jsonl")


def test_a_wrong_row_of_an_evaluation_says_of_which(tmp_path: Path) -> None:
    asked = held_out(write(tmp_path, ROWS), columns={"prompt": "question", "answer": "a"})
    with pytest.raises(UserError, match=r"^task\.target\.own: columns: .* has no column question; it has q, a"):
        task(write(tmp_path, ROWS), target={"own": asked}).suites()


def test_a_folder_laid_out_as_on_the_hub(tmp_path: Path) -> None:
    for split, rows in (("train", ROWS[:15]), ("test", ROWS[15:])):
        (tmp_path / "set" / "data").mkdir(parents=True, exist_ok=True)
        Dataset.from_list(rows).to_parquet(str(tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet"))
    path = str(tmp_path / "set")
    assert len(task(path).train_examples()) == 15
    assert len(task(path, data=data(path, split="test")).train_examples()) == 5
    with pytest.raises(UserError, match=r"task\.data can't load .*: Unknown split"):
        task(path, data=data(path, split="dev")).train_examples()


def test_a_sample_is_drawn_by_its_seed(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    drawn = [task(path, data=data(path, num_examples=5, seed=seed)).train_examples() for seed in (1, 1, 2)]
    assert len(drawn[0]) == 5
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(UserError, match=r"task\.data\.num_examples must be at most 20"):
        task(path, data=data(path, num_examples=21)).train_examples()


def test_the_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    before = task(write(tmp_path, ROWS)).fingerprint()
    assert task(write(tmp_path, ROWS)).fingerprint() == before
    assert task(write(tmp_path, ROWS[:-1])).fingerprint() != before


def test_a_chat_template_makes_turns(tmp_path: Path) -> None:
    first = task(write(tmp_path, ROWS), chat_template="tulu").train_examples()[0]
    assert isinstance(first, Conversation)
    assert first.messages == [
        {"role": "user", "content": "What is 0 + 1?\n"},
        {"role": "assistant", "content": "1"},
    ]


def test_messages_and_preferences_as_the_hub_has_them(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    worse = [turns[0], {"role": "assistant", "content": "What?"}]
    path = write(tmp_path, [{"messages": turns, "prompt": "Hi", "chosen": turns, "rejected": worse}])
    spoken = task(path, {"messages": "messages"}, chat_template="tulu").train_examples()
    assert spoken == [Conversation(messages=turns)]
    columns = {name: name for name in ("prompt", "chosen", "rejected")}
    plain = task(path, columns)
    assert plain.is_preference
    assert plain.train_examples() == [Preference(prompt="Hi\n", chosen="Hello", rejected="What?")]
    chat = task(path, columns, chat_template="tulu").train_examples()[0]
    assert isinstance(chat, Preference)
    assert chat.prompt == [{"role": "user", "content": "Hi\n"}]


def test_questions_of_a_target_suite_are_not_trained_on(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    asked = held_out(path, data=data(path, num_examples=4), prompt_template="{prompt}\n")
    made = task(path, target={"own": asked})
    suite = made.suites()["target"]["own"]
    assert isinstance(suite, Suite)
    prompts = {example.prompt for example in made.train_examples() if isinstance(example, Example)}
    assert len(prompts) == 16
    assert not prompts & set(suite.prompts)


def test_a_pattern_that_finds_no_answer_in_a_row_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [{"q": "2 + 2", "a": "ANSWER: 4"}, {"q": "2 + 3", "a": "5"}])
    with pytest.raises(UserError, match=r"row 2 must hold an answer that answer_pattern 'ANSWER: .*' finds, got '5'"):
        held_out(path, answer_pattern="ANSWER: (.*)").suite("own")


def test_a_file_of_another_encoding_is_named_and_a_mark_of_utf8_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"q": "a", "a": "b"}\n{"q": "\xe9", "a": "b"}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2, must be UTF-8 text"):
        task(str(file)).train_examples()
    file.write_bytes(b'\xef\xbb\xbf{"q": "a", "a": "b"}\n')
    assert task(str(file)).train_examples() == [Example(prompt="a\n", completion="b")]


def test_a_row_without_the_column_that_others_have_is_named(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "assistant", "content": "a"}]}, {"other": 1}]
    with pytest.raises(UserError, match="row 2 must hold a list of turns"):
        task(write(tmp_path, rows), {"messages": "messages"}, chat_template="tulu").train_examples()
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b"}]
    columns = {name: name for name in ("prompt", "chosen", "rejected")}
    with pytest.raises(UserError, match="row 2 must hold a rejected answer"):
        task(write(tmp_path, rows), columns).train_examples()


def test_held_out_answers_are_found_by_their_pattern(tmp_path: Path) -> None:
    path = write(tmp_path, [{"q": "2 + 2", "a": "2 + 2 = 4\n#### 4"}])
    suite = held_out(path, answer_pattern=r"(-?\d+)\D*$").suite("own")
    assert [suite.score(0, text) for text in ("The answer is 4.", "5", "none at all")] == [1, 0, 0]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (['{"q": "a", "a": "b"}', ""], r"rows\.jsonl, line 2, is empty"),
        (['{"q": "a", "a": "b"}', '{"q": "a"'], r"rows\.jsonl, line 2, is not JSON"),
        (['["a"]'], r"rows\.jsonl, line 1, must hold a JSON object"),
        ([], "must hold at least one row"),
        (['{"question": "a", "a": "b"}'], r"has no column q; it has question, a"),
        (['{"q": "a", "a": "b"}', '{"q": "a", "a": 5}'], r"row 2 must hold a text in column 'a', got 5"),
        (['{"q": "a", "a": " "}'], "row 1 must hold a text in column 'a'"),
        (['{"q": "a", "a": "b\\ud800"}'], "row 1 must hold Unicode text, but has a lone surrogate at character 1"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, lines: list[str], sentence: str) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(line + "\n" for line in lines))
    with pytest.raises(UserError, match=sentence):
        task(str(tmp_path / "rows.jsonl")).train_examples()


@pytest.mark.parametrize("text", ["", "[]"])
def test_a_json_file_without_a_row_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(UserError, match=r"task\.data\.path must hold at least one row, got .*rows\.json"):
        task(str(tmp_path / "rows.json")).train_examples()


def test_a_path_that_is_neither_here_nor_a_hub_id_with_a_revision() -> None:
    with pytest.raises(UserError, match=r"hub id with task\.data\.revision, got 'data', which is not on this machine"):
        task("data")


@pytest.mark.parametrize(
    "missing",
    [None, "", "  ", [], [{"role": "assistant", "content": ""}], [{"role": "user", "content": "no"}]],
)
def test_a_preference_without_a_rejected_answer_is_named(tmp_path: Path, missing: object) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b", "rejected": missing}]
    columns = {name: name for name in ("prompt", "chosen", "rejected")}
    with pytest.raises(UserError, match="row 2 must hold a rejected answer in column 'rejected', but has none"):
        task(write(tmp_path, rows), columns).train_examples()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"columns": {"prompt": "q"}}, r"task\.columns must name"),
        ({"prompt_template": "Q:"}, r"task\.prompt_template must hold \{prompt\}"),
        ({"completion_template": "{prompt}"}, r"task\.completion_template must hold \{completion\}"),
        ({"chat_template": "tulip"}, "did you mean 'tulu'"),
        ({"chat_template": 3}, r"task\.chat_template must be a text that is not empty, got 3"),
        ({"chat_template": str(NANO / "model.safetensors")}, r"task\.chat_template must be a file of UTF-8 text"),
        ({"columns": {"messages": "q"}}, r"task\.chat_template must not be null"),
        ({"target": {}}, r"task\.target must name at least one evaluation"),
        ({"source": {"sums": {"family": "sums"}}}, "must be an evaluation with a _target_"),
        ({"data": data("rows.csv")}, r"hub id with task\.data\.revision, got 'rows.csv'"),
        ({"data": data("a/b", revision=3)}, r"task\.data\.revision must be a text"),
        ({"data": data("./rows.csv")}, "must be a file or folder, got './rows.csv', which does not exist"),
        ({"data": data("rows.jsonl", revision="main")}, "must be null for local data"),
        ({"data": {"path": "x"}}, r"task\.data must hold exactly"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        task(write(tmp_path, ROWS), **changes)
