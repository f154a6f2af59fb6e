"""Digests of a finished record's files, which show whether a file has changed since. Knows nothing of runs.

status.json holds the digests. It is written in one piece when the run ends, so a record has all digests or none.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from gmt.machine_faults import machine_faults_first

LARGE = ("metrics.jsonl", "answers_before.jsonl", "answers_after.jsonl", "selection.jsonl")
"""Files that may have gigabytes: only code that reads such a file checks its hash; all other code compares its size."""
LATER = ("drops.jsonl", "operations.json")
"""Files that commands of older versions added to a record that was done."""
_FILES = ("config.json", "environment.json", "before.json", "result.json", *LARGE, *LATER)


class Digest(TypedDict):
    """The size and the hash of a file when it was written."""

    bytes: int
    sha256: str


Digests = Mapping[str, Sequence[Digest]]
"""Digests by file name; a file rewritten after the run's end has two, since a crash may have left either version."""


def digest_of(content: bytes) -> Digest:
    """Return the digest of a file's content."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def digests_at_the_end(folder: Path) -> Digests:
    """Return the digests of the files that a finished run leaves in its folder."""
    return {name: [_digest(folder / name)] for name in _FILES if (folder / name).exists()}


def change_in(folder: Path, digests: Digests, also: Collection[str] = ()) -> str | None:
    """Return a clause on the first file that has changed, e.g. `result.json is missing`; None if none has.

    Args:
        folder: the record's folder.
        digests: the digests in its status.json.
        also: the LARGE files to hash; of the other LARGE files only the sizes are compared.

    Raises:
        MachineFault: the disk fails.
    """
    if not isinstance(digests, Mapping) or not all(isinstance(known, list) for known in digests.values()):
        return "status.json holds no digests that can be read"
    for name, known in digests.items():
        path = folder / name
        try:
            with machine_faults_first(str(path)):
                if name in LARGE and name not in also:
                    is_same = path.stat().st_size in [digest["bytes"] for digest in known]
                else:
                    is_same = _digest(path) in known
        except FileNotFoundError:
            if name in LATER:  # no number of the run depends on it
                continue
            return f"{name} is missing"
        except OSError as error:
            return f"{name} can't be read ({error.strerror})"
        if not is_same:
            return f"{name} does not match its digest in status.json"
    return next((f"{name} has no digest in status.json" for name in _added(folder, digests)), None)


def _added(folder: Path, digests: Digests) -> Iterable[str]:
    return (name for name in _FILES if name not in digests and (folder / name).exists())


def _digest(path: Path) -> Digest:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": sha256}
