"""Reads rows of JSON files: of a single file, and of a folder laid out as on the hub.

It uses only Python's reader, since the reader of datasets converts texts that look like dates or numbers.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmt.errors import UserError, for_each

if TYPE_CHECKING:
    from datasets import Features
    from datasets.download import DownloadManager
    from datasets.packaged_modules.json.json import Json

TOO_DEEP = "must not be nested so deep that Python can't read it"


def jsonl_rows(file: Path, *, skips_blank: bool = False) -> list[Mapping[str, Any]]:
    """Return the rows of a JSONL file; an error names the line."""
    with file.open("rb") as lines:
        numbered = [(i, line) for i, line in enumerate(lines, start=1) if line.strip() or not skips_blank]
    return for_each(numbered, lambda line: _object(f"{file}, line {line[0]},", line[1]))


def json_rows(file: Path, *, field: str | None = None, skips_blank: bool = False) -> list[Mapping[str, Any]]:
    """Return the rows of a JSON file: a list of objects, one object, or one object in each line.

    Args:
        file: a file of UTF-8 text.
        field: the key of the file's single object that holds the rows; None if the file is the rows.
        skips_blank: whether blank lines between objects are skipped, as datasets does; otherwise they are refused.

    Raises:
        UserError: a line or row is not an object; the message names it.
    """
    text = file.read_bytes()
    if not text.strip():
        return []
    try:
        whole = _loads(str(file), text)
    except UserError as error:
        try:
            _object("", text.lstrip().partition(b"\n")[0])
        except UserError:
            raise error from error.__cause__
        if field is not None:
            raise UserError(f"{file} must hold its rows in the field {field!r} of one object, not in lines") from error
        return jsonl_rows(file, skips_blank=skips_blank)
    if field is not None:
        whole = _mapping(str(file), whole)
        if field not in whole:
            raise UserError(f"{file} must have the field {field!r}, as its folder's README declares")
        whole = whole[field]
    rows = whole if isinstance(whole, list) else [whole]
    return for_each(enumerate(rows, start=1), lambda row: _mapping(f"{file}, row {row[0]},", row[1]))


def json_splits(folder: Path, subset: str | None) -> JsonSplits | None:
    """Return the rows of each split of a folder laid out as on the hub; None if its files are not JSON in UTF-8.

    A split is read at its first use. Columns that the folder's README declares have the declared types.

    Raises:
        UserError: see json_rows; raised when a split is read.
        ValueError, OSError: datasets finds no data files, or no such subset.
    """
    from datasets import load_dataset_builder
    from datasets.download import DownloadManager
    from datasets.packaged_modules.json.json import Json

    builder = load_dataset_builder(str(folder), subset)
    if not isinstance(builder, Json) or builder.config.encoding != "utf-8":
        return None
    return JsonSplits(builder, DownloadManager(dataset_name=builder.dataset_name))


class JsonSplits(Mapping[str, Sequence[Mapping[str, Any]]]):
    """The rows of each split of a folder."""

    def __init__(self, builder: Json, downloads: DownloadManager):
        self._builder, self._downloads = builder, downloads
        self._read: dict[str, list[Mapping[str, Any]]] = {}

    @property
    def files(self) -> list[Path]:
        """The files of all splits."""
        return [Path(file) for files in self._builder.config.data_files.values() for file in files]

    def __iter__(self) -> Iterator[str]:
        return iter(map(str, self._builder.config.data_files))

    def __len__(self) -> int:
        return len(self._builder.config.data_files)

    def __getitem__(self, split: str) -> Sequence[Mapping[str, Any]]:
        if split not in self._read:
            files = self._downloads.download_and_extract(list(self._builder.config.data_files[split]))
            self._read[split] = [row for file in self._downloads.iter_files(files) for row in self._rows(Path(file))]
        return self._read[split]

    def _rows(self, file: Path) -> list[Mapping[str, Any]]:
        rows = json_rows(file, field=self._builder.config.field, skips_blank=True)
        declared = self._builder.info.features
        if declared is None:
            return rows
        return for_each(enumerate(rows, start=1), lambda row: _as_declared(f"{file}, row {row[0]},", declared, row[1]))


def _as_declared(where: str, declared: Features, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row with the types that the folder's README declares, where a number may become a text.

    Other values that would be silently converted are refused.
    """
    for name, feature in declared.items():
        if not _fits(feature, row.get(name)):
            raise UserError(
                f"{where} must hold {name} as its folder's README declares it, {feature}; got {reprlib.repr(row[name])}"
            )
    try:
        decoded: Mapping[str, Any] = declared.decode_example(declared.encode_example(row))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise UserError(f"{where} must hold the columns that its folder's README declares ({error})") from error
    return decoded


def _fits(feature: Any, value: Any) -> bool:
    """Return whether a JSON value is accepted in a declared column.

    A number is accepted for a text, and any value for a type that is not checked here.
    """
    if value is None:
        return True
    if isinstance(feature, Mapping):
        return isinstance(value, Mapping) and all(_fits(field, value.get(name)) for name, field in feature.items())
    if type(feature).__name__ != "Value":
        return True
    dtype, is_number = str(feature.dtype), isinstance(value, int | float) and not isinstance(value, bool)
    if dtype in ("string", "large_string"):
        return isinstance(value, str) or is_number
    if dtype == "bool":
        return isinstance(value, bool)
    if dtype.startswith(("int", "uint")):
        return is_number and float(value).is_integer()
    if dtype.startswith("float"):
        return is_number
    return True


def rows_of_split(splits: Mapping[str, Sequence[Mapping[str, Any]]], split: str) -> list[Mapping[str, Any]]:
    """Return the rows of a split in datasets' notation, e.g. `train`, `train[:10%]+test` or `all`.

    Raises:
        ValueError: there is no such split, or the notation is wrong.
    """
    from datasets import ReadInstruction

    wanted = ReadInstruction.from_spec("+".join(splits) if split == "all" else split)
    parts = wanted.to_absolute(_Lengths(splits))
    return [row for part in parts for row in splits[part.splitname][part.from_ : part.to]]


class _Lengths(Mapping[str, int]):
    """The number of rows of each split; a split is read only when its number is looked up."""

    def __init__(self, splits: Mapping[str, Sequence[Mapping[str, Any]]]):
        self._splits = splits

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    def __getitem__(self, split: str) -> int:
        return len(self._splits[split])


def _object(where: str, text: bytes) -> Mapping[str, Any]:
    if not text.strip():
        raise UserError(f"{where} is empty")
    return _mapping(where, _loads(where, text))


def _loads(where: str, text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where} must be UTF-8 text ({error})") from error
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error})") from error
    except RecursionError as error:
        raise UserError(f"{where} {TOO_DEEP}") from error


def _mapping(where: str, row: Any) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{where} must hold a JSON object, got {reprlib.repr(row)}")
    return row
