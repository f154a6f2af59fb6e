"""Puts a file or a folder into its place whole or not at all, and overwrites nothing unasked."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gmt.errors import UserError
from gmt.removal import remove


@contextmanager
def placed(path: Path, *, force: bool, marker: str | None = None) -> Iterator[Path]:
    """Give the path beside `path` at which to write a file or a folder; it gets its name when the block ends.

    Args:
        path: the file or folder; folders above it are made.
        force: whether what is there is replaced.
        marker: the name of a file in every folder that may be replaced; None for a file.

    Raises:
        UserError: see `check_free`.
    """
    check_free(path, force=force, marker=marker)
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = f".{path.name[:100]}.{uuid.uuid4().hex}"
    new, former = path.with_name(ours), path.with_name(f"{ours}.former")
    try:
        yield new
        check_free(path, force=force, marker=marker)  # again, since the block may have taken long
        if path.is_dir() and not path.is_symlink():
            path.rename(former)
        new.replace(path)
        _sync(path.parent)
    finally:
        remove(new, path.parent)  # it is there only if something failed
        if former.exists() and not os.path.lexists(path):
            former.rename(path)
        remove(former, path.parent)


def check_free(path: Path, *, force: bool, marker: str | None = None) -> None:
    """Refuse a place that is taken.

    Args:
        path: a file or a folder.
        force: whether what is there may be replaced.
        marker: as `placed` has it.

    Raises:
        UserError: something is there, and `force` is not set; or a folder without the marker is there, or a folder
            where a file is to be, or a file where a folder is to be.
    """
    if not os.path.lexists(path):
        return
    if not force:
        raise UserError(f"{path} is there already: name another place, or add --force to replace it")
    is_folder = path.is_dir() and not path.is_symlink()
    if marker is None and is_folder:
        raise UserError(f"{path} is a folder, and --force replaces no folder by a file: name another place")
    if marker is not None and not is_folder:
        raise UserError(f"{path} is no folder, and --force replaces no file by a folder: name another place")
    if marker is not None and any(path.iterdir()) and not (path / marker).is_file():
        raise UserError(
            f"{path} holds files that are no export (it lacks {marker}), and --force replaces only an export: name "
            "another place"
        )


def _sync(folder: Path) -> None:
    held = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(held)
    finally:
        os.close(held)
