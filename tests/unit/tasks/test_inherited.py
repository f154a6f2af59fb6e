"""A task of one's own builds on `dataset`: columns are replaced, null drops, held-out questions follow."""

from pathlib import Path
from typing import Any

import pytest

from gmt.composition import Composer, hydra_on
from gmt.errors import UserError
from gmt.runs.build import build
from gmt.runs.prepare import prepare
from gmt.tasks.inherited import without_removed_entries
from tests.unit.tasks.test_dataset import write

PLAIN = {"prompt": "prompt", "completion": "completion"}
DATASET = [
    "task=dataset",
    "task.name=x",
    "task.data.path=a.jsonl",
    "task.target.held_out.data.path=b.jsonl",
    "train=sft",
]
KINDS: list[tuple[str, dict[str, str], dict[str, str]]] = [
    ("{}", PLAIN, {"prompt": "prompt", "answer": "completion"}),
    ("{prompt: q, completion: a}", {"prompt": "q", "completion": "a"}, {"prompt": "q", "answer": "a"}),
    ("{prompt: q}", {"prompt": "q", "completion": "completion"}, {"prompt": "q", "answer": "completion"}),
    ("{messages: m}", {"messages": "m"}, {"prompt": "prompt", "answer": "completion"}),
    (
        "{prompt: q, chosen: c, rejected: r}",
        {"prompt": "q", "chosen": "c", "rejected": "r"},
        {"prompt": "q", "answer": "completion"},
    ),
    ("{prompt: null, chosen: c, rejected: r}", {"chosen": "c", "rejected": "r"}, {"answer": "completion"}),
]


def composed(*overrides: str, folder: Path | None = None) -> dict[str, Any]:
    with hydra_on(None if folder is None else str(folder)):
        task: dict[str, Any] = Composer().compose_plain(overrides)["task"]
    return task


def own(folder: Path, text: str) -> Path:
    (folder / "task").mkdir()
    (folder / "task" / "own.yaml").write_text(f"defaults: [dataset]\nname: own\ndata: {{path: a}}\n{text}")
    return folder


@pytest.mark.parametrize(("columns", "training", "asked"), KINDS)
@pytest.mark.parametrize("how", ["override", "yaml"])
def test_columns_are_replaced(
    tmp_path: Path, how: str, columns: str, training: dict[str, str], asked: dict[str, str]
) -> None:
    if how == "override":
        task = composed(*DATASET, f"task.columns={columns}")
    else:
        text = f"columns: {columns}\ntarget: {{held_out: {{data: {{path: b}}}}}}"
        task = composed("task=own", "train=sft", folder=own(tmp_path, text))
    assert task["columns"] == training
    assert task["target"]["held_out"]["columns"] == asked


def test_what_a_plain_data_set_says_is_hashed_as_ever() -> None:
    """A run id is made of these values: no column that nobody named, no null of one."""
    task = composed(*DATASET)
    assert task["columns"] == PLAIN
    assert task["target"] == {
        "held_out": {
            "_target_": "gmt.tasks.dataset.HeldOut",
            "data": {
                "path": "b.jsonl", "subset": None, "revision": None, "split": "test", "num_examples": None, "seed": 0,
            },
            "columns": {"prompt": "prompt", "answer": "completion"},
            "prompt_template": "{prompt}\n",
            "answer_pattern": None,
            "max_new_tokens": 64,
        }
    }  # fmt: skip


def test_columns_taken_out_and_put_in_again_are_replaced_too() -> None:
    task = composed(*DATASET, "~task.columns", "+task.columns={messages: m}")
    assert task["columns"] == {"messages": "m"}
    assert task["target"]["held_out"]["columns"] == {"prompt": "prompt", "answer": "completion"}


def test_held_out_conversations() -> None:
    task = composed(*DATASET, "task.target.held_out.columns={messages: m}")
    assert task["target"]["held_out"]["columns"] == {"messages": "m"}


def test_a_wrong_column_is_named() -> None:
    with pytest.raises(UserError, match=r"task\.columns has no setting 'mesages'; did you mean 'messages'\?"):
        composed(*DATASET, "task.columns={mesages: m}")


def test_null_drops_an_entry(tmp_path: Path) -> None:
    more = [
        "+benchmark@task.source.gsm8k=gsm8k",
        "+benchmark@task.target.hard=held_out",
        "task.target.hard.data.path=c",
    ]
    task = composed(*DATASET, *more, "task.source.sums=null", "task.target.held_out=null")
    assert (set(task["source"]), set(task["target"])) == ({"gsm8k"}, {"hard"})
    text = "source: {sums: null, b: {_target_: x}}\ntarget: {held_out: null}"
    task = composed("task=own", "train=sft", folder=own(tmp_path, text))
    assert (set(task["source"]), set(task["target"])) == ({"b"}, set())
    shipped = composed("task=long_words", "task.source.addition=null")
    assert "addition" not in shipped["source"]
    assert "spelling" in shipped["source"]


@pytest.mark.parametrize(
    ("train", "left"),
    [
        ({"words": {"num_examples": 3}, "sums": None}, {"words": {"num_examples": 3}}),
        ({"num_examples": 3, "seed": None}, None),
        ({"seed": None}, None),
        ({"words": {"num_examples": 3}, "seed": None, "num_examples": 3}, None),
    ],
)
def test_null_drops_training_data_and_no_setting_of_a_plug_in(train: Any, left: Any) -> None:
    """A run id is made of what is left."""
    assert without_removed_entries({"_target_": "mine.Task", "train": train})["train"] == (
        train if left is None else left
    )


def test_null_drops_in_every_run_of_a_sweep() -> None:
    with hydra_on(None):
        composer = Composer()
        for column in ("q", "null", "p"):
            task = composer.compose_plain([*DATASET, f"task.columns.prompt={column}"])["task"]
            assert task["columns"].get("prompt") == (None if column == "null" else column)
            assert None not in task["columns"].values()


def test_what_drops_nothing_is_one_object_in_every_run() -> None:
    """A plan checks and hashes a part that runs share once."""
    with hydra_on(None):
        composer = Composer()
        first, second = (composer.compose_plain([f"seed={seed}"])["task"] for seed in (1, 2))
    assert first is second


def test_all_files_are_looked_at_before_a_run(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
    train = write(tmp_path / "train", [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": 1}])
    test = write(tmp_path / "test", [{"prompt": "a"}])
    paths = [
        "task=dataset",
        "task.name=x",
        f"task.data.path={train}",
        f"task.target.held_out.data.path={test}",
        "train=sft",
    ]
    with hydra_on(None):
        run = build(Composer().compose_plain([*paths, "task.source.sums.num_examples=2"]))
    with pytest.raises(UserError) as caught:
        prepare(run)
    wrong_text, no_column = caught.value.sentences
    assert "train/rows.jsonl, row 2 must hold a text in column 'completion', got 1" in wrong_text
    assert no_column.startswith("task.target.held_out: columns: ")
    assert no_column.endswith("test/rows.jsonl has no column completion; it has prompt")


def test_what_is_wrong_in_a_config_is_said_at_once() -> None:
    wrong = ["task.prompt_template=Q", "task.target.held_out.answer_pattern='('", "task.source.sums.num_examples=0"]
    with hydra_on(None), pytest.raises(UserError) as caught:
        build(Composer().compose_plain([*DATASET, *wrong, "~task.data.split"]))
    text = str(caught.value)
    for part in ("task.target.held_out: data.path must be", "answer_pattern must be", "num_examples must be"):
        assert part in text
