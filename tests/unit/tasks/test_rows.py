"""Files of any kind give the same rows, and what is wrong with one is said with file and row."""

import errno
import gzip
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from gmt.errors import UserError
from gmt.tasks.columns import drawn_rows
from gmt.tasks.json_rows import json_rows
from gmt.tasks.protocol import Example
from gmt.tasks.rows import Source
from tests.unit.tasks.test_dataset import data, task, write

# Each is a text that some reader of JSON takes for something else.
TEXTS = [
    "2021-02-01",
    "2021-02-01T10:00:00Z",
    "10:30",
    "007",
    "1e5",
    "true",
    "null",
    "NaN",
    "1,5",
    "½",
    " x ",
    "a\u2028b",
    "[1]",
]
COLUMNS = {"prompt": "q", "completion": "a"}


def source(path: Path) -> Source:
    return Source(setting="task.data", path=str(path), subset=None, revision=None, split="train")


def in_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("layout", [json.dumps, in_lines, lambda rows: json.dumps(rows, indent=2)])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_json_and_jsonl_are_read_alike(tmp_path: Path, name: str, layout: Any) -> None:
    rows = [
        {"q": f"day {i}", "a": text, "n": i, "f": 0.1, "none": None, "turns": [{"role": "user"}]}
        for i, text in enumerate(TEXTS)
    ]
    (tmp_path / name).write_text(layout(rows))
    if name == "rows.jsonl" and layout is not in_lines:
        with pytest.raises(UserError, match=r"rows\.jsonl, line 1, "):
            source(tmp_path / name).rows()
    else:
        assert source(tmp_path / name).rows() == rows


@pytest.mark.parametrize("layout", [json.dumps, in_lines, lambda rows: json.dumps(rows, indent=2)])
@pytest.mark.parametrize("name", ["train.json", "train.jsonl"])
def test_a_folder_of_json_is_read_as_its_file_is(tmp_path: Path, name: str, layout: Any) -> None:
    rows = [{"q": f"day {i}", "a": text, "n": i, "mixed": text if i else i} for i, text in enumerate(TEXTS)]
    (tmp_path / name).write_text(layout(rows))
    assert source(tmp_path).rows() == rows


@pytest.mark.parametrize("text", ["2021-02-01", "007", "1e5"])
def test_a_date_or_number_is_the_text_that_it_was_and_the_odd_row_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.jsonl").write_text(in_lines([{"q": "?", "a": text}] * 5 + [{"q": "?", "a": 4}]))
    with pytest.raises(UserError, match=r"row 6 must hold a text in column 'a', got 4$"):
        task(str(tmp_path), COLUMNS).train_examples()


def test_splits_subsets_and_compressed_files_of_a_folder_of_json(tmp_path: Path) -> None:
    files = {"one/train": ["01", "02"], "one/test": ["03"], "two/train": ["04"]}
    for place, texts in files.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        content = in_lines([{"a": text} for text in texts]) + "\n"
        (tmp_path / f"{place}.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    configs = {
        "configs": [
            {"config_name": name, "data_files": [{"split": split, "path": f"{name}/{split}*"} for split in splits]}
            for name, splits in {"one": ["train", "test"], "two": ["train"]}.items()
        ]
    }
    (tmp_path / "README.md").write_text(f"---\n{json.dumps(configs)}\n---\n")

    def texts_of(subset: str, split: str) -> list[str]:
        found = Source(setting="task.data", path=str(tmp_path), subset=subset, revision=None, split=split).rows()
        return [row["a"] for row in found]

    assert texts_of("two", "train") == ["04"]
    assert texts_of("one", "test+train[1:]") == ["03", "02"]
    assert texts_of("one", "all") == ["01", "02", "03"]
    with pytest.raises(UserError, match=r"task\.data can't load .*: Unknown split \"dev\""):
        texts_of("one", "dev")


def test_columns_that_a_folders_readme_declares_have_its_types(tmp_path: Path) -> None:
    declared = {"features": [{"name": "a", "dtype": "string"}, {"name": "n", "dtype": "float32"}]}
    (tmp_path / "README.md").write_text(f"---\n{json.dumps({'dataset_info': declared})}\n---\n")
    (tmp_path / "train.jsonl").write_text(in_lines([{"a": "2021-02-01", "n": 1}, {"a": 7}]))
    assert source(tmp_path).rows() == [{"a": "2021-02-01", "n": 1.0}, {"a": "7", "n": None}]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("string", ["a"]),
        ("string", {"a": 1}),
        ("string", True),
        ("bool", "false"),
        ("bool", 1),
        ("int64", 3.9),
        ("int64", "3"),
        ("float32", "1"),
    ],
)
def test_a_value_that_python_would_convert_to_the_declared_type_is_refused(
    tmp_path: Path, dtype: str, value: object
) -> None:
    declared = {"features": [{"name": "a", "dtype": dtype}]}
    (tmp_path / "README.md").write_text(f"---\n{json.dumps({'dataset_info': declared})}\n---\n")
    (tmp_path / "train.jsonl").write_text(in_lines([{"a": None}, {"a": value}]))
    with pytest.raises(UserError, match=r"train\.jsonl, row 2, must hold a as its folder's README declares it"):
        source(tmp_path).rows()


@pytest.mark.parametrize("text", ['{"a": "x"}\n{"a": "y"}\n', '{"rows": []}'])
def test_a_field_that_a_file_lacks_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(UserError, match="the field 'data'"):
        json_rows(tmp_path / "rows.json", field="data")


def test_a_json_file_of_a_single_object_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(row := {"q": "a", "a": "b"}, indent=1))
    assert source(tmp_path / "rows.json").rows() == [row]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_every_text_is_a_text_in_every_kind(tmp_path: Path, kind: str) -> None:
    examples = task(write(tmp_path, [{"q": "?", "a": text} for text in TEXTS], kind), COLUMNS).train_examples()
    assert examples == [Example(prompt="?\n", completion=text) for text in TEXTS]


@pytest.mark.parametrize("wrong", [4, 0.5, True, None, [], {"x": 1}])
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_the_row_that_is_wrong_is_named_and_not_another(tmp_path: Path, kind: str, wrong: object) -> None:
    rows: list[dict[str, Any]] = [{"q": "?", "a": f"{i:03d}"} for i in range(60)]
    rows[40]["a"] = rows[50]["a"] = wrong
    with pytest.raises(UserError, match=rf"rows\.{kind}, row 41 must hold a text .* \(2 rows in all are wrong\)$"):
        task(write(tmp_path, rows, kind), COLUMNS).train_examples()


def test_a_null_or_a_date_of_a_parquet_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, [{"q": "?", "a": text} for text in ("a", None, "b")], "parquet")
    with pytest.raises(UserError, match=r"rows\.parquet, row 2 must hold a text in column 'a', got None"):
        task(path, COLUMNS).train_examples()
    Dataset.from_list([{"q": "?", "a": datetime(2021, 2, 1)}]).to_parquet(path)
    with pytest.raises(UserError, match=r"row 1 must hold a text in column 'a', got datetime"):
        task(path, COLUMNS).train_examples()


def test_a_cache_that_cannot_be_written_is_named_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/cache/parquet")

    path = write(tmp_path, [{"q": "a", "a": "b"}], "parquet")
    monkeypatch.setattr("datasets.load_dataset", closed)
    sentence = (
        rf"^task\.data can't load '{path}': .*Permission denied: '/cache/parquet'; it is read through a cache, and "
        "HF_HOME must name a writable folder for the cache$"
    )
    with pytest.raises(UserError, match=sentence):
        source(Path(path)).rows()


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_a_row_of_a_sample_is_named_by_its_place_in_the_file(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, [{"q": str(i)} for i in range(1, 101)], kind)
    rows = list(drawn_rows("task.data", data(path, num_examples=10), ["q"], "task.columns"))
    assert len(rows) == 10
    assert all(row.where == f"task.columns: {path}, row {row.values['q']}" for row in rows)


DEEP = '{"q": "a", "a": ' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("rows.jsonl", '{"q": "a", "a": "b"}\n' + DEEP, "line 2, must not be nested so deep"),
        ("rows.json", f"[{DEEP}]", r"rows\.json must not be nested so deep"),
        ("rows.json", '{"q": "a", "a": "b"}\n' + DEEP, "line 2, must not be nested so deep"),
        ("rows.jsonl", '{"q": "a"\n{"q": "a", "a": "b"}\nx\n\n', r"line 1, is not JSON .* \(3 rows in all are wrong\)"),
        ("rows.json", '[{"q": "a", "a": "b"}, 3, []]', r"row 2, must hold a JSON object, got 3 \(2 rows in all"),
        ("rows.json", '[{"q": "a", "a": "b"},\n {"q" "a"}]', r"rows\.json is not JSON .*line 2 column 7"),
        ("rows.json", '{"data": [{"q": "a", "a": "b"}]}', "has no column q, a; it has data"),
        (
            "rows.jsonl",
            '{"q": "a", "a": ' + "[" * 900 + "]" * 900 + "}",
            r"row 1 must hold a text in column 'a', got \[",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=sentence) as caught:
        task(str(tmp_path / name), COLUMNS).train_examples()
    assert len(str(caught.value)) < 600
