"""Checks that a file is ours: that nobody but this user and root could have written it.

A file of another user may hold code (a pickle, a library) or a forged score, so each file in a folder that others may
reach is checked before it is loaded. On Linux, an access control list that lets others write shows in the mode too.
"""

import functools
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def fault_of(status: os.stat_result, *, is_above: bool = False) -> str | None:
    """Return a clause that says why a file is not ours; None if it is.

    Args:
        status: the result of stat, or better of fstat on the open file.
        is_above: whether it is a folder above the loaded file; a sticky one, as /tmp is, may let others add names.
    """
    if status.st_uid not in (os.geteuid(), 0):
        return f"belongs to {_user(status.st_uid)}"
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode) or (is_above and mode & stat.S_ISVTX):
        return None
    if mode & stat.S_IWOTH:
        return f"can be written by everybody (mode {mode:o})"
    if mode & stat.S_IWGRP and not _is_private(status.st_gid, status.st_uid):
        return f"can be written by the group {_group(status.st_gid)} (mode {mode:o})"
    return None


def foreign(path: Path, boundary: Path) -> str | None:
    """Return the first file that is not ours, with the reason, as a sentence; None if all are ours.

    Args:
        path: a file, or a folder with everything below it, where links are refused; it need not exist.
        boundary: a folder above it. This folder and those between are checked too, those above it are not.
    """
    return foreign_folder(path.parent, boundary) or next(_faults_below(path), None)


def foreign_folder(folder: Path, boundary: Path) -> str | None:
    """Return a sentence on the first folder from a boundary down to `folder` that is not ours; None if all are ours."""
    parts = folder.relative_to(boundary).parts
    for part in [boundary.joinpath(*parts[:number]) for number in range(len(parts) + 1)]:
        try:
            for status in (part.lstat(), part.stat()):  # of a link, and of its target
                if fault := fault_of(status, is_above=True):
                    return f"{part} {fault}"
        except FileNotFoundError:
            return None
    return None


def _faults_below(path: Path) -> Iterator[str]:
    try:
        status = path.lstat()
        names = sorted(os.listdir(path)) if stat.S_ISDIR(status.st_mode) and not fault_of(status) else []
    except FileNotFoundError:  # another run has just removed its scratch files
        return
    if stat.S_ISLNK(status.st_mode):
        yield f"{path} is a link"
    elif fault := fault_of(status):
        yield f"{path} {fault}"
    for name in names:
        yield from _faults_below(path / name)


def close_to_others() -> None:
    """Set the umask so that neither the group nor others can write the files that this process makes from now on."""
    os.umask(os.umask(0o077) | 0o022)


def _user(uid: int) -> str:
    import pwd

    try:
        return f"the user {pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"the user with uid {uid}"


def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"with gid {gid}"


@functools.lru_cache(maxsize=64)
def _is_private(gid: int, uid: int) -> bool:
    """Return whether a group is a user's private group, which Debian and Fedora give the user's name and umask 002.

    The rule is that of Debian's OpenSSH for ~/.ssh (secure_permissions in its user-group-modes.patch). The name must
    match too, since a directory service does not list the other members of a group.
    """
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    if user.pw_gid != gid or group.gr_name != user.pw_name or set(group.gr_mem) - {user.pw_name}:
        return False
    return all(other.pw_uid == uid for other in pwd.getpwall() if other.pw_gid == gid)
