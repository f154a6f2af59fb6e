"""Reads the JSON files of a run record; a file that was cut or edited raises a UserError, which names the file."""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from gmt.errors import UserError

_REMEDY = "delete the run's folder to run it anew"


class Fields(dict[str, Any]):
    """A JSON object that names its file when a key is missing.

    Args:
        values: the keys and values of the object.
        path: the file.
    """

    def __init__(self, values: Mapping[str, Any], path: Path):
        super().__init__(values)
        self._path = path

    def __missing__(self, key: str) -> Any:
        """Raise a UserError for a missing key; use `get` for keys that may be missing."""
        raise UserError(f"{self._path} lacks {key!r}; {_REMEDY}")

    def __reduce__(self) -> tuple[type, tuple[Mapping[str, Any], Path]]:
        return Fields, (dict(self), self._path)


@lru_cache(maxsize=8)
def _decoder(path: Path) -> json.JSONDecoder:
    """Return the decoder of a file; json.loads would make one for each line, which would take most of the time."""
    return json.JSONDecoder(object_hook=lambda values: Fields(values, path))


def object_of(text: str | bytes, path: Path, where: str = "") -> Fields:
    """Return the JSON object in a text.

    Args:
        text: the content of the file, or a line of it.
        path: the file, for errors.
        where: the place in the file, for errors, e.g. `, line 3,`.

    Raises:
        UserError: the text holds no JSON object.
    """
    try:
        unicode = text if isinstance(text, str) else text.decode(json.detect_encoding(text), "surrogatepass")
        value = _decoder(path).decode(unicode)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}{where} can't be read: {error}; {_REMEDY}") from error
    if not isinstance(value, Fields):
        raise UserError(f"{path}{where} must hold a JSON object, got {type(value).__name__}; {_REMEDY}")
    return value


def objects_of(lines: Iterable[str | bytes], path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a file that has one on each line.

    Raises:
        UserError: a line holds no JSON object.
    """
    decode = _decoder(path).raw_decode
    return [
        _whole_line(line, decode) or object_of(line, path, f", line {number},")
        for number, line in enumerate(lines, start=1)
    ]


def _whole_line(line: str | bytes, decode: Callable[[str], tuple[Any, int]]) -> Fields | None:
    """Return the JSON object in a line that holds nothing else, twice as fast as `object_of`; None for other lines."""
    try:
        text = line if isinstance(line, str) else line.decode()
        value, end = decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, Fields) and end == len(text) else None
