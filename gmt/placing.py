"""Writes a file or a folder whole or not at all, and overwrites nothing unless forced to."""

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
    """Yield a temporary path to write a file or a folder at, which is renamed to `path` when the block ends.

    Args:
        path: the file or folder; folders above it are made.
        force: whether an existing one is replaced.
        marker: the name of a file that lies in every folder that may be replaced; None if `path` is a file.

    Raises:
        UserError: see `check_free`.
    """
    check_free(path, force=force, marker=marker)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = f".{path.name[:100]}.{uuid.uuid4().hex}"
    new, former = path.with_name(temporary), path.with_name(f"{temporary}.former")
    try:
        yield new
        check_free(path, force=force, marker=marker)  # again, since the block may have taken long
        if path.is_dir() and not path.is_symlink():
            path.rename(former)
        new.replace(path)
        _sync(path.parent)
    finally:
        remove(new, path.parent)  # exists only if something failed
        if former.exists() and not os.path.lexists(path):
            former.rename(path)
        remove(former, path.parent)


def check_free(path: Path, *, force: bool, marker: str | None = None) -> None:
    """Refuse a path that exists, unless it may be replaced.

    Args:
        path: a file or a folder.
        force: whether an existing one may be replaced.
        marker: see `placed`.

    Raises:
        UserError: the path exists, and `force` is not set; or it is a folder without the marker, a folder in place of a
            file, or a file in place of a folder.
    """
    if not os.path.lexists(path):
        return
    if not force:
        raise UserError(f"{path} exists already: name another place, or add --force to replace it")
    is_folder = path.is_dir() and not path.is_symlink()
    if marker is None and is_folder:
        raise UserError(f"{path} is a folder, and --force replaces no folder by a file: name another place")
    if marker is not None and not is_folder:
        raise UserError(f"{path} is not a folder, and --force replaces no file by a folder: name another place")
    if marker is not None and any(path.iterdir()) and not (path / marker).is_file():
        raise UserError(
            f"{path} is not an export, since it lacks {marker}, and --force replaces only exports: name another place"
        )


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
