"""Keeps secrets out of what is written down or shown: overrides, scripts, manifests, process lists."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

from gmt.errors import UserError

_KINDS = r"TOKEN|SECRET|PASSWORD|PASSWD|(?:API|ACCESS|SECRET|PRIVATE)_?KEY|CREDENTIALS?"
_SECRET_NAME = re.compile(rf"({_KINDS})$", re.IGNORECASE)
# A password may hold any letter, so that one ends at the last @ of its line. Behind a host's name a few digits are a
# port, but not in a database's address, which has no @ behind its host, nor in the address of our store.
_PORT = r"""(?!\d{1,5}(?:[/?#\s,;'")\]}\\]|$))"""
_IN_URIS = (
    re.compile(rf"(://[^:/@\s]*:){_PORT}[^\n]+(?=@)"),
    re.compile(r"((?:postgres|mysql|mssql|oracle)\w*(?:\+\w+)?://[^:/@\n]*:)[^\n]+(?=@)"),
    re.compile(r"(tracking\.uri=\W*\w[\w+]*://)(?![^:/@\s]*:\*{3}@)[^\n]+(?=@)"),
    re.compile(r"(https?://)[^:/\s]+(?=@)"),  # a token as the user's name
    re.compile(rf"([?&](?:[\w-]*[_-])?(?:{_KINDS})=)[^&\s]+", re.IGNORECASE),
)
_USER_AND_PASSWORD = re.compile(r"(\w://)[^\n]*@")
# In settings that a run id covers any text may follow an address, so that there a password holds no blank and no slash.
_IN_DATA = (re.compile(rf"(://[^:/@\s]*:){_PORT}[^/\s]+(?=@)"), *_IN_URIS[1:])
T = TypeVar("T")
_SHORTEST_SECRET = 8  # what is shorter is found in harmless text by chance


def refuse_secrets(what: str, text: str, remedy: str, *, is_data: bool = False) -> None:
    """Refuses text that holds a password or a token of this environment.

    Args:
        what: the text as the user knows it, e.g. `the override`.
        text: what would be written down.
        remedy: how the secret gets there safely.
        is_data: see `without_secrets`.

    Raises:
        UserError: with the secret left out of its sentence.
    """
    if (masked := without_secrets(text, is_data=is_data)) != text:
        raise UserError(f"{what} must hold no secret, got {masked!r}; {remedy}")


def without_secrets(value: T, *, is_data: bool = False) -> T:
    """Return a text, or a mapping or list of plain values, with passwords of URIs and the environment's secrets as ***.

    Args:
        value: what would be shown or written down.
        is_data: whether it is what a run is made of, such as a prompt, where an @ may follow any address: a password
            with a blank or a slash is then not found.
    """
    return cast(T, _masked(value, _secrets_of(os.environ), _IN_DATA if is_data else _IN_URIS))


def without_user(address: str) -> str:
    """One address without its user and password, whatever letters they hold."""
    return _USER_AND_PASSWORD.sub(r"\1", without_secrets(address))


def _masked(value: object, secrets: Sequence[str], patterns: Sequence[re.Pattern[str]]) -> object:
    if isinstance(value, Mapping):
        return {key: _masked(item, secrets, patterns) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item, secrets, patterns) for item in value]
    if not isinstance(value, str):
        return value
    for pattern in patterns:
        value = pattern.sub(r"\1***", value)
    for secret in secrets:
        value = value.replace(secret, "***")
    return value


def names_a_secret(variable: str) -> bool:
    """Whether an environment variable's name says that its value is a secret."""
    return bool(_SECRET_NAME.search(variable))


def _secrets_of(environment: Mapping[str, str]) -> list[str]:
    values = [value for name, value in environment.items() if names_a_secret(name)]
    token_file = environment.get("RAY_AUTH_TOKEN_PATH")
    if token_file and Path(token_file).is_file():
        values.append(Path(token_file).read_text(encoding="utf-8").strip())
    return [value for value in values if len(value) >= _SHORTEST_SECRET]
