"""Where Ray on this machine keeps its sockets and its token: its own places, or private ones where those don't do."""

import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray._common.utils import get_default_ray_temp_dir

from gmt.errors import UserError

# A socket's path may have 107 bytes; below this folder it is session_YYYY-MM-DD_HH-MM-SS_UUUUUU_PID/sockets/NAME.
_MOST_BYTES = 40
_SHORT = ("/tmp", "/var/tmp", "/dev/shm")
_TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"


@contextmanager
def ray_files() -> Iterator[str | None]:
    """Make sure of a folder for sockets, and of a token, until the block ends.

    Yields:
        A folder for Ray's files in a private one; None where Ray's own choice (RAY_TMPDIR, TMPDIR or /tmp) serves.

    Raises:
        UserError: there is no folder with a short path that can be written.
    """
    folder = None if _serves(get_default_ray_temp_dir()) else str(_private_folder() / "ray")  # which Ray opens to all
    if _home_has_a_token():
        yield folder
        return
    with tempfile.NamedTemporaryFile("w", prefix="token-", dir=_private_folder()) as token:
        token.write(secrets.token_hex(32))
        token.flush()
        os.environ[_TOKEN_PATH] = token.name
        try:
            yield folder
        finally:
            del os.environ[_TOKEN_PATH]


def _serves(folder: str) -> bool:
    if not os.path.isabs(folder) or len(os.fsencode(folder)) > _MOST_BYTES:
        return False
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryDirectory(dir=folder).cleanup()  # another user's, or a full disk, can't be told by its rights
    except OSError:
        return False
    return True


def _home_has_a_token() -> bool:
    """Whether Ray needs no token, is told where one is, or finds or makes one in the home folder."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or {"RAY_AUTH_TOKEN", _TOKEN_PATH} & set(os.environ):
        return True
    try:
        folder = Path.home() / ".ray"
        if (folder / "auth_token").exists():
            return os.access(folder / "auth_token", os.R_OK)
        nearest = folder if folder.exists() else folder.parent
        tempfile.TemporaryDirectory(dir=nearest).cleanup()
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        return False
    return True


def _private_folder() -> Path:
    """Return a folder of this user's that nobody else can enter; it stays, as Ray's own does, with Ray's logs."""
    for parent in map(Path, _SHORT):
        folder = parent / f"gmt-{os.getuid()}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            about = folder.lstat()
            is_own = stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077
            if is_own and _serves(str(folder)):
                return folder
        except OSError:
            continue
    raise UserError(
        f"hydra/launcher=ray_tune needs a folder that can be written, with a path of at most {_MOST_BYTES} bytes, for "
        f"Ray's sockets: RAY_TMPDIR must name one, got {get_default_ray_temp_dir()!r}, and there is none of "
        f"{', '.join(_SHORT)}"
    )
