"""Keeps other users out of a Ray that a sweep starts on this machine, by a private folder, a token and the loopback."""

import contextlib
import fcntl
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gmt.errors import UserError
from gmt.removal import remove
from gmt_launchers.ray_internals import forget_token, temporary_folder
from gmt_launchers.ray_start import on_the_loopback

_PREFIX = "gmt-"
_FOLDER_NAME = re.compile(_PREFIX + r"[a-z0-9_]{8}")  # as tempfile.mkdtemp names it
_RAY = "ray"
_TOKEN = "token"
# A socket's path may have 107 bytes; below Ray's folder it is session_YYYY-MM-DD_HH-MM-SS_UUUUUU_PID/sockets/NAME.
_MAX_BYTES = 40 - len(f"/{_PREFIX}XXXXXXXX/{_RAY}")
_SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
_MAX_AGE_S = 7 * 24 * 3600
_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # Ray prefers the first


@contextmanager
def private_ray() -> Iterator[Path]:
    """Give the Ray that the block starts a token of its own, a folder that nobody else can enter, and the loopback.

    The token ends with the block. Ray's logs stay for at least a week, until a later call with the same place for
    temporary files removes them.

    Yields:
        The folder for Ray's files, which Ray makes and opens to all users, below the private one.

    Raises:
        UserError: RAY_AUTH_MODE switches tokens off, or no folder with a short path can be written.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode.lower() != "token":
        raise UserError(
            "RAY_AUTH_MODE must be token, or not set, where a sweep starts Ray on this machine, since otherwise every "
            f"user of the machine could run code as you, got {mode!r}; other values are for a cluster that you join"
        )
    private = _private_folder()
    with _in_use(private), _own_token(private / _TOKEN), on_the_loopback():
        yield private / _RAY


def _private_folder() -> Path:
    for place in (temporary_folder(), *_SHORT_PLACES):
        with contextlib.suppress(OSError):  # another user's folder or a full disk
            if _can_hold_sockets(place):
                _remove_old(place)
                return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    raise UserError(
        f"hydra/launcher=ray_tune needs a folder that can be written, with a path of at most {_MAX_BYTES} bytes, for "
        f"Ray's sockets: RAY_TMPDIR must name one, got {temporary_folder()!r}, and none of "
        f"{', '.join(_SHORT_PLACES)} can be used"
    )


def _can_hold_sockets(place: str) -> bool:
    """Return whether a folder can hold Ray's sockets: its path is short, and no other user can replace them."""
    if not os.path.isabs(place) or len(os.fsencode(place)) > _MAX_BYTES:
        return False
    os.makedirs(place, exist_ok=True)
    mode = os.stat(place).st_mode
    return not mode & (stat.S_IWGRP | stat.S_IWOTH) or bool(mode & stat.S_ISVTX)


def _remove_old(place: str) -> None:
    """Remove the folders of sweeps of this user that ended, or were killed, a week ago."""
    for path in Path(place).glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            is_private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
            is_ours = is_private and _FOLDER_NAME.fullmatch(path.name) is not None and (path / _RAY).is_dir()
            if is_ours and time.time() - status.st_mtime > _MAX_AGE_S:
                with _in_use(path, alone=True):
                    remove(path, Path(place))


@contextmanager
def _in_use(folder: Path, *, alone: bool = False) -> Iterator[None]:
    """Lock a folder, which keeps other sweeps and systemd-tmpfiles from removing it.

    Raises:
        OSError: `alone` is true, and another process holds the lock.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if alone:
                raise
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _own_token(path: Path) -> Iterator[None]:
    """Let Ray take a new token from a file that only this user can read, in place of the token that the user names."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    users_values = {name: os.environ.pop(name) for name in _TOKEN_VARIABLES if name in os.environ}
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    forget_token()
    try:
        yield
    finally:
        remove(path, path.parent)
        del os.environ["RAY_AUTH_TOKEN_PATH"]
        os.environ.update(users_values)
        forget_token()
