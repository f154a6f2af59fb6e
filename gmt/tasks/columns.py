"""Reads texts and turns from the columns of a dataset; error messages name the file and the row."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from reprlib import Repr
from typing import Any

from gmt import settings
from gmt.errors import UserError, for_each
from gmt.tasks.protocol import Message
from gmt.tasks.rows import Source

_DATA_KEYS = {"path", "subset", "revision", "split", "num_examples", "seed"}
_ROLES = ("system", "user", "assistant")
_UNSUPPORTED = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
_SHOWN = Repr()
_SHOWN.maxstring = _SHOWN.maxother = 60


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a dataset; `where` names its file and its number, counted from 1, for errors."""

    values: Mapping[str, Any]
    where: str

    def text(self, column: str) -> str:
        """Return the text in a column.

        Raises:
            UserError: the column holds no text, or only blanks.
        """
        value = self.values.get(column)
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{self.where} must hold a text in column {column!r}, got {shown(value)}")
        return self.unicode(value)

    def turns(self, column: str) -> list[Message]:
        """Return the turns in a column.

        Raises:
            UserError: the column holds no list of turns, or a turn has a part that would be lost, such as tool_calls.
        """
        value = self.values.get(column)
        if not isinstance(value, Sequence) or not value or not all(isinstance(turn, Mapping) for turn in value):
            raise UserError(
                f"{self.where} must hold a list of turns, each with role and content, in column {column!r}, got "
                f"{shown(value)}"
            )
        return [self._turn(turn) for turn in value]

    def _turn(self, turn: Mapping[str, Any]) -> Message:
        if turn.get("role") not in _ROLES or not isinstance(turn.get("content"), str):
            raise UserError(
                f"{self.where} must hold turns with a role of {', '.join(_ROLES)} and a content, got "
                f"{shown(dict(turn))}"
            )
        if unsupported := [key for key in _UNSUPPORTED if turn.get(key)]:
            raise UserError(
                f"{self.where} must have all text of a turn in its content, but has {unsupported[0]} beside it"
            )
        if turn.get("weight") not in (None, 1):
            raise UserError(
                f"{self.where} must have no weights, since all answers are learnt alike, but a turn has one"
            )
        return message(turn["role"], self.unicode(turn["content"]))

    def unicode(self, text: str) -> str:
        """Return the text; raise UserError if it holds a lone surrogate, which JSON allows but no tokenizer accepts."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{self.where} must hold Unicode text, but has a lone surrogate at character {error.start}"
            ) from error
        return text


def message(role: str, content: str) -> Message:
    """Return a turn."""
    return {"role": role, "content": content}


def shown(value: object) -> str:
    """Return a value as short text for an error, however long or nested it is."""
    return _SHOWN.repr(value)


def source_of_rows(setting: str, data: Mapping[str, Any]) -> Source:
    """Return the source of the rows.

    Raises:
        UserError: a key is missing or unknown, or a value is wrong.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"{setting} must hold {', '.join(sorted(_DATA_KEYS))}, got {data!r}")
    if wrong := sorted(_DATA_KEYS ^ set(data)):
        missing, unknown = [key for key in wrong if key in _DATA_KEYS], [key for key in wrong if key in data]
        faults = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(unknown)}"] * bool(unknown)
        raise UserError(f"{setting} must hold exactly {', '.join(sorted(_DATA_KEYS))}, but {' and '.join(faults)}")
    settings.integer(f"{setting}.seed", data["seed"], low=0)
    if data["num_examples"] is not None:
        settings.integer(f"{setting}.num_examples", data["num_examples"], low=1)
    where = {key: data[key] for key in ("path", "subset", "revision", "split")}
    return Source(setting=setting, **where)


def drawn_rows(setting: str, data: Mapping[str, Any], columns: Iterable[str], columns_setting: str) -> Iterator[Row]:
    """Return all rows in their order, or `num_examples` of them drawn by the seed.

    Args:
        setting: the user's name for the data, e.g. `task.data`.
        data: the dataset, see gmt.tasks.dataset.DatasetTask.
        columns: columns that the data must have.
        columns_setting: the setting that names the columns.

    Raises:
        UserError: there are too few rows, or a column is missing.
    """
    rows, number = source_of_rows(setting, data).rows(), data["num_examples"]
    where = f"{columns_setting}: {data['path']}"
    if number is not None and number > len(rows):
        raise UserError(f"{setting}.num_examples must be at most {len(rows)}, the number of rows, got {number}")
    if missing := [column for column in columns if column not in rows[0]]:
        raise UserError(f"{where} has no column {', '.join(missing)}; it has {', '.join(rows[0])}")
    if number is None:
        return (Row(values=row, where=f"{where}, row {i}") for i, row in enumerate(rows, start=1))
    sample = random.Random(data["seed"]).sample(range(len(rows)), number)
    return (Row(values=rows[i], where=f"{where}, row {i + 1}") for i in sample)


def texts_of(setting: str, data: Mapping[str, Any], column: str) -> list[str]:
    """Return the texts in a column.

    Raises:
        UserError: there is no such column, or a row has no text in it.
    """
    return for_each(drawn_rows(setting, data, [column], setting), lambda row: row.text(column))


def check_placeholder(setting: str, placeholder: str, template: object) -> None:
    """Raise UserError, with the setting, if a template lacks its placeholder, e.g. {prompt}."""
    if f"{{{placeholder}}}" not in settings.text(setting, template):
        raise UserError(f"{setting} must hold {{{placeholder}}}, got {template!r}")


def check_columns(setting: str, columns: object, kinds: Iterable[frozenset[str]]) -> None:
    """Refuse columns whose keys are none of the allowed sets.

    Args:
        setting: the config key.
        columns: the dataset's column for each key, such as prompt.
        kinds: the allowed sets of keys.

    Raises:
        UserError: the keys are none of the allowed sets, or a column is not a text; the sentence lists the sets.
    """
    listed = " or ".join("{" + ", ".join(sorted(kind)) + "}" for kind in kinds)
    if not isinstance(columns, Mapping) or frozenset(columns) not in kinds:
        got = f"{{{', '.join(sorted(columns))}}}" if isinstance(columns, Mapping) else repr(columns)
        raise UserError(f"{setting} must name {listed}, got {got}")
    for name, column in columns.items():
        settings.text(f"{setting}.{name}", column)
