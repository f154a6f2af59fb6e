"""Whether a file is ours: nobody but this user and root could have written it.

What another user wrote may be code (a pickle, a library) or a forged score, so whoever loads a file from a folder that
others may reach asks here first. On Linux an access control list that lets others write shows in the mode as well.
"""

import functools
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def fault_of(about: os.stat_result, *, is_above: bool = False) -> str | None:
    """Say why a file is not ours, or return None.

    Args:
        about: from stat, or better from fstat of the open file.
        is_above: whether it is a folder above what is loaded. Others may add names to it if it is sticky, as /tmp is.
    """
    if about.st_uid not in (os.geteuid(), 0):
        return f"belongs to {_user(about.st_uid)}"
    mode = stat.S_IMODE(about.st_mode)
    if stat.S_ISLNK(about.st_mode) or (is_above and mode & stat.S_ISVTX):
        return None
    if mode & stat.S_IWOTH:
        return f"can be written by everybody (mode {mode:o})"
    if mode & stat.S_IWGRP and not _is_private(about.st_gid, about.st_uid):
        return f"can be written by the group {_group(about.st_gid)} (mode {mode:o})"
    return None


def foreign(path: Path, boundary: Path) -> str | None:
    """Name the first file that is not ours, with the reason, or return None.

    Args:
        path: a file, or a folder with all below it, where links are refused; it need not exist.
        boundary: a folder above it. This folder and those between are judged too, those above it are not.
    """
    return foreign_folder(path.parent, boundary) or next(_faults_below(path), None)


def foreign_folder(folder: Path, boundary: Path) -> str | None:
    """Name the first of a folder and those above it, up to a boundary, that is not ours, or return None."""
    parts = folder.relative_to(boundary).parts
    for each in [boundary.joinpath(*parts[:number]) for number in range(len(parts) + 1)]:
        try:
            for about in (each.lstat(), each.stat()):  # a link, and where it leads
                if fault := fault_of(about, is_above=True):
                    return f"{each} {fault}"
        except FileNotFoundError:
            return None
    return None


def _faults_below(path: Path) -> Iterator[str]:
    try:
        about = path.lstat()
        names = sorted(os.listdir(path)) if stat.S_ISDIR(about.st_mode) and not fault_of(about) else []
    except FileNotFoundError:  # a run beside this one removes its scratch
        return
    if stat.S_ISLNK(about.st_mode):
        yield f"{path} is a link"
    elif fault := fault_of(about):
        yield f"{path} {fault}"
    for name in names:
        yield from _faults_below(path / name)


def close_to_others() -> None:
    """Take from the group and all others the right to write what this process makes from now on."""
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
    """Whether a group is a user's private one: Debian and Fedora give it the user's name and let it write (umask 002).

    The rule is that of Debian's OpenSSH for ~/.ssh (secure_permissions in its user-group-modes.patch), and the name
    besides, since a directory service does not list who else is in the group.
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
