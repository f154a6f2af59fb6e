"""The files that a model or a task is made of: recorded beside a result, so that a branch that moved can be told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from gmt.file_digests import hash_of_digests, sha256_of


@dataclass(frozen=True, kw_only=True)
class UsedFiles:
    """The files of one source.

    Args:
        root: a folder that holds them; they are named as seen from there.
        files: that are read.
        commit: of the hub, `unknown` where its cache does not tell it; None for files of this machine.
    """

    root: Path
    files: Sequence[Path]
    commit: str | None = None

    def recorded(self) -> dict[str, Any]:
        """Return the commit and the SHA-256 of every file, as environment.json holds them."""
        return {"commit": self.commit, "files": {self._name(path): sha256_of(path) for path in self.files}}

    def _name(self, path: Path) -> str:
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()


@runtime_checkable
class KnowsItsFiles(Protocol):
    """An optional part of Model, Task, Questions and Benchmark."""

    def used_files(self) -> Mapping[str, UsedFiles]:
        """Return what is read of the hub or of this machine, by a word for each source, e.g. `data`.

        It is asked once the model's or the task's files are on this machine.
        """
        ...


def in_words(recorded: Mapping[str, Any]) -> str:
    """Return commit and a hash over all files of a source, e.g. `commit 0123, files sha256:4567`."""
    return f"commit {recorded['commit']}, files {hash_of_digests(recorded['files'].items())}"
