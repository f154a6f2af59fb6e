"""Keeps secrets out of what is written down or shown: overrides, scripts, manifests, process lists."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from gmt.errors import UserError

_PASSWORD_IN_URI = re.compile(r"(://[^:/@\s]*:)[^@/\s]+(@)")
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIALS?)$", re.IGNORECASE)
_SHORTEST_SECRET = 8  # what is shorter is found in harmless text by chance


def refuse_secrets(what: str, text: str, remedy: str) -> None:
    """Refuses text that holds a password or a token of this environment.

    Args:
        what: the text as the user knows it, e.g. `the override`.
        text: what would be written down.
        remedy: how the secret gets there safely.

    Raises:
        UserError: with the secret left out of its sentence.
    """
    masked = _PASSWORD_IN_URI.sub(r"\1***\2", text)
    for secret in _secrets_of(os.environ):
        masked = masked.replace(secret, "***")
    if masked != text:
        raise UserError(f"{what} must hold no secret, got {masked!r}; {remedy}")


def names_a_secret(variable: str) -> bool:
    """Whether an environment variable's name says that its value is a secret."""
    return bool(_SECRET_NAME.search(variable))


def _secrets_of(environment: Mapping[str, str]) -> list[str]:
    values = [value for name, value in environment.items() if names_a_secret(name)]
    token_file = environment.get("RAY_AUTH_TOKEN_PATH")
    if token_file and Path(token_file).is_file():
        values.append(Path(token_file).read_text().strip())
    return [value for value in values if len(value) >= _SHORTEST_SECRET]
