"""The token that a Ray cluster demands from its users."""

import os

from gmt.errors import UserError
from gmt_launchers.ray_internals import show_token

_RIGHTS_OF_OTHERS = 0o077


def use_token_if_there_is_one() -> None:
    """Make Ray use the token that it finds in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.

    Ray does this itself only if it starts or finds a cluster on this machine.

    Raises:
        UserError: RAY_AUTH_TOKEN_PATH names no file, or other users can read or write the file.
    """
    if "RAY_AUTH_TOKEN" not in os.environ:
        _check_file()
    show_token()


def _check_file() -> None:
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = named or os.path.expanduser("~/.ray/auth_token")
    if not os.path.isfile(path):
        if named is not None:
            raise UserError(f"RAY_AUTH_TOKEN_PATH must name the file with the cluster's token, got {named!r}")
        return
    status = os.stat(path)
    if status.st_uid not in (os.getuid(), 0):
        raise UserError(f"the file with Ray's token must be yours, but {path} is user {status.st_uid}'s: copy it")
    if status.st_mode & _RIGHTS_OF_OTHERS:
        raise UserError(
            f"the file with Ray's token must be closed to other users, got mode {status.st_mode & 0o777:o}: "
            f"chmod 600 {path}"
        )
