"""Connects to Ray's job server, and turns the errors into sentences."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gmt.errors import UserError
from gmt_launchers.ray_internals import get_from_dashboard

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_CONNECT_S = 10.0
# Ray's client prefers these to the given address.
_OVERRULING_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


def check_address(setting: str, address: object) -> None:
    """Check that an address can be that of a dashboard.

    Raises:
        UserError: it is not an http(s) address, or holds a user or a password.
    """
    parts = urlsplit(address) if isinstance(address, str) else None
    if parts is not None and "@" in parts.netloc:
        raise UserError(f"{setting} must carry no user and no password; Ray's token goes into a file")
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{setting} must be the Ray dashboard's address, http(s)://HOST:PORT, got {address!r}")


def connect(address: str) -> "JobSubmissionClient":
    """Return a client that the cluster has accepted.

    Ray reads the token from RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token.

    Raises:
        UserError: nothing answers, the answer is not that of a Ray cluster, or the token is wrong.
    """
    for name in _OVERRULING_VARIABLES:
        if os.environ.get(name, address) != address:
            raise UserError(f"{name} in the environment overrules cluster.address {address}: unset it")
    _require_an_answer(address)
    from ray.job_submission import JobSubmissionClient

    from gmt_launchers.token import use_token_if_there_is_one

    # Each module of the client sets a level of its own.
    for name in ("ray", *(kind.__module__ for kind in JobSubmissionClient.__mro__)):
        logging.getLogger(name).setLevel(logging.ERROR)
    use_token_if_there_is_one()
    with errors_of(address):
        return JobSubmissionClient(address)


def fetched(client: "JobSubmissionClient", address: str, endpoint: str) -> dict[str, Any]:
    """Return the dashboard's response at an endpoint that the client has no method for."""
    with errors_of(address):
        answer = get_from_dashboard(client, endpoint)
        answer.raise_for_status()
        data: dict[str, Any] = answer.json()["data"]
    return data


@contextmanager
def errors_of(address: str) -> Iterator[None]:
    """Turn the errors of Ray's client into sentences."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        rule = "needs the cluster's token: name its file in RAY_AUTH_TOKEN_PATH"
        raise UserError(f"cluster.address {address} {rule}, got {_refusal(str(error))}") from error
    except (requests.RequestException, ConnectionError, KeyError, TypeError) as error:
        raise UserError(
            f"cluster.address must be the address of a Ray dashboard, and the server at {address} is not one"
        ) from error
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1][:300]
        raise UserError(f"the Ray cluster at {address} refuses: {last}") from error


def _refusal(text: str) -> str:
    return "no token" if "required" in text else "another token"


def _require_an_answer(address: str) -> None:
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((str(parts.hostname), port), timeout=_CONNECT_S).close()
    except OSError as error:
        raise UserError(
            "cluster.address must be the dashboard of a running Ray cluster, but nothing answers at "
            f"{address} ({error.strerror or error})"
        ) from None  # a wrong address, and no fault of the machine
