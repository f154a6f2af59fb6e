"""Stores the values of questions after each batch, so that a kill loses at most one batch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gmt.records.record import write_whole


class StoredValues:
    """A file with one line for each question.

    Args:
        file: the file, which need not exist; a line that a kill cut short is ignored.
    """

    def __init__(self, file: Path):
        self._file = file

    def read(self) -> dict[int, Any]:
        """Return the stored values by the question's index."""
        if not self._file.exists():
            return {}
        *lines, incomplete = self._file.read_text(encoding="utf-8").split("\n")
        if incomplete:
            write_whole(self._file, "".join(line + "\n" for line in lines))
        return dict(json.loads(line) for line in lines)

    def add(self, values: Mapping[int, Any]) -> None:
        """Store the plain values of a batch, by the question's index."""
        with self._file.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps([index, value]) + "\n" for index, value in values.items())
