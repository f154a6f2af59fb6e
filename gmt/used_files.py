"""The files of a model or a task, recorded beside a result so that a later change of a branch on the hub is noticed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from gmt.file_digests import hash_of_digests, sha256_of


@dataclass(frozen=True, kw_only=True)
class UsedFiles:
    """The files of one source.

    Args:
        root: a folder that holds them; their recorded names are relative to it.
        files: the files that are read.
        commit: the commit on the hub, `unknown` if its cache does not tell; None for files of this machine.
    """

    root: Path
    files: Sequence[Path]
    commit: str | None = None

    def recorded(self) -> dict[str, Any]:
        """Return the commit and the SHA-256 of every file, in the form of environment.json."""
        return {"commit": self.commit, "files": {self._name(path): sha256_of(path) for path in self.files}}

    def _name(self, path: Path) -> str:
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()


@runtime_checkable
class KnowsItsFiles(Protocol):
    """An optional part of Model, Task, Questions and Benchmark."""

    def used_files(self) -> Mapping[str, UsedFiles]:
        """Return the files that are read from the hub or this machine, by a name for each source, e.g. `data`.

        It is called once the files of the model or the task are on this machine.
        """
        ...


def in_words(recorded: Mapping[str, Any]) -> str:
    """Return the commit and a hash over all files of a source, e.g. `commit 0123, files sha256:4567`."""
    return f"commit {recorded['commit']}, files {hash_of_digests(recorded['files'].items())}"
