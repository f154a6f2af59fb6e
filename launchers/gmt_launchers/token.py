"""The token with which a Ray cluster lets its users in."""

import os
from pathlib import Path

from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

from gmt.errors import UserError


def use_token_if_there_is_one() -> None:
    """Makes Ray show the token that it finds in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.

    Ray does this itself only where it starts or finds a cluster on this machine.

    Raises:
        UserError: RAY_AUTH_TOKEN_PATH names no file.
    """
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if named is not None and not Path(named).is_file():
        raise UserError(f"RAY_AUTH_TOKEN_PATH must name the file with the cluster's token, got {named!r}")
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
