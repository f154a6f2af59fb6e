"""Removes files and folders, but nothing outside a boundary folder; no other module of gmt removes any."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: Path, boundary: Path) -> None:
    """Remove a file, a link, or a folder with everything below it; do nothing if it does not exist.

    A link is removed, and its target stays. Each folder on the way is held open and no link is followed, so that nobody
    can redirect the removal by renaming a folder.

    Args:
        path: the file, link or folder to remove.
        boundary: a folder above it; nothing outside this folder is touched. The path to the boundary may hold links.

    Raises:
        ValueError: the path is not below the boundary, or holds `..` or a zero byte.
        OSError: a part of the path is a link; a folder is a mount, or belongs to neither this user nor the boundary's
            owner; or the system refuses. Files removed before the error stay removed.
    """
    parts = path.relative_to(boundary).parts
    if not parts or ".." in parts or any("\0" in part for part in parts):
        raise ValueError(f"a path to remove must lie below {boundary}, got {path}")
    try:
        parent = os.open(boundary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    owners, mount = (os.geteuid(), os.fstat(parent).st_uid), _mount(parent)
    try:
        for part in parts[:-1]:
            folder = os.open(part, _FOLDER, dir_fd=parent)
            os.close(parent)
            parent = folder
        _remove(parts[-1], parent, owners, mount)
    except FileNotFoundError:
        return
    except RecursionError as error:
        raise OSError(errno.ELOOP, "folders are nested too deep to be removed", str(path)) from error
    finally:
        os.close(parent)


def _remove(name: str, parent: int, owners: tuple[int, int], mount: object) -> None:
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    folder = os.open(name, _FOLDER, dir_fd=parent)
    try:
        if (owner := os.fstat(folder).st_uid) not in owners:
            raise PermissionError(f"the folder {name} is not removed: it belongs to uid {owner}")
        if _mount(folder) != mount:
            raise PermissionError(f"the folder {name} is not removed: another file system is mounted there")
        for child in os.listdir(folder):
            with suppress(FileNotFoundError):  # another process removes it too
                _remove(child, folder, owners, mount)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=parent)


def _mount(folder: int) -> object:
    """Return an id of the mount that holds an open folder; st_dev would not do, since a bind mount has its source's."""
    try:
        lines = Path(f"/proc/self/fdinfo/{folder}").read_text(encoding="utf-8").splitlines()
    except OSError:  # not on Linux
        return os.fstat(folder).st_dev
    return next((line for line in lines if line.startswith("mnt_id:")), None)
