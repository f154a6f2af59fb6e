"""The one place that removes files: below a folder that the caller names, whatever names, links or mounts are there."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: Path, boundary: Path) -> None:
    """Remove a file, a link, or a folder with all below it; do nothing if it is not there.

    A link is removed, and what it leads to stays. Each folder on the way is held open and no link is followed, so that
    nobody can lead the removal elsewhere by renaming one.

    Args:
        path: of what goes.
        boundary: a folder above it, of which nothing outside is touched; the path to it may hold links.

    Raises:
        ValueError: the path does not lie below the boundary by its letters, or holds `..` or a zero byte.
        OSError: a link lies on the way, or a folder is a mount or belongs to neither this user nor the boundary's
            owner; or the system refuses. What is removed by then is gone.
    """
    parts = path.relative_to(boundary).parts
    if not parts or ".." in parts or any("\0" in part for part in parts):
        raise ValueError(f"what is removed must lie below {boundary}, got {path}")
    try:
        held = os.open(boundary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    owners, mount = (os.geteuid(), os.fstat(held).st_uid), _mount(held)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _FOLDER, dir_fd=held)
            os.close(held)
            held = inner
        _remove(parts[-1], held, owners, mount)
    except FileNotFoundError:
        return
    except RecursionError as error:
        raise OSError(errno.ELOOP, "folders are nested too deep to be removed", str(path)) from error
    finally:
        os.close(held)


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
        for each in os.listdir(folder):
            with suppress(FileNotFoundError):  # another process removes it too
                _remove(each, folder, owners, mount)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=parent)


def _mount(folder: int) -> object:
    """Name the mount in which an open folder lies; a bind mount has the device of where it comes from."""
    try:
        lines = Path(f"/proc/self/fdinfo/{folder}").read_text(encoding="utf-8").splitlines()
    except OSError:  # not on Linux
        return os.fstat(folder).st_dev
    return next((line for line in lines if line.startswith("mnt_id:")), None)
