"""Masks or refuses secrets in everything that is stored or shown: overrides, scripts, manifests, logs, process lists.

A secret is recognised by its source (an environment variable whose name says so, a token's file) or by its shape (the
password in an address, the prefix of a known type of token).
"""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, cast

from gmt.errors import UserError

# Endings of names of secrets: those of _KINDS end any word, those of _WORDS are a whole word after an underscore.
_KINDS = (
    r"(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL)S?|(?:API|ACCESS|SECRET|PRIVATE)_?KEY"
    r"|CONNECTION_?STRING|WEBHOOK(?:_?URL)?"
)
_WORDS = r"KEY|PAT|PWD|PASS|DSN|AUTH|JWT|COOKIE|CONN_?STR"
_SECRET_NAME = re.compile(rf"(?:{_KINDS}|_(?:{_WORDS}))$", re.IGNORECASE)
# Names of numbers of tokens, and of tokens of a tokenizer, which are no secrets.
_TOKENS_OF_TEXT = re.compile(
    r"(?:^|_)(?:N|NUM|NO|COUNT|MAX|MIN|NEW|TOTAL|PER|TRAIN|EVAL|INPUT|OUTPUT|PROMPT|COMPLETION|CONTEXT|CACHED|SEEN|"
    r"BATCHED|SPECIAL|ADDED|STOP|START|END|BOS|EOS|PAD|UNK|SEP|CLS|MASK|IMAGE|THINK\w*)_?TOKENS?$",
    re.IGNORECASE,
)
_SIGNATURES = ("sig", "signature", "x-amz-signature", "x-amz-credential", "x-goog-signature", "x-goog-credential")
# A password may hold any character, so it ends at the last @ of its line. A few digits after a host's name are a port,
# except in a database's address, which has no @ after its host, and in tracking.uri.
_PORT = r"""(?!\d{1,5}(?:[/?#\s,;'")\]}\\]|$))"""
_IN_URIS = (
    re.compile(rf"(://[^:/@\s]*:){_PORT}[^\n]+(?=@)"),
    re.compile(r"((?:postgres|mysql|mssql|oracle)\w*(?:\+\w+)?://[^:/@\n]*:)[^\n]+(?=@)"),
    re.compile(r"(tracking\.uri=\W*\w[\w+]*://)(?![^:/@\s]*:\*{3}@)[^\n]+(?=@)"),
    re.compile(r"(https?://)[^:/\s]+(?=@)"),  # a token as the user's name
)
# Each issuer's prefix, and fewer characters than its tokens have; from GitHub's and gitleaks' lists of patterns.
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|sk-(?:[a-z0-9]{1,20}-){0,3}\w{16,}[\w-]*"
    r"|sk-(?=[\w-]{0,200}[A-Z])(?=[\w-]{0,200}\d)[\w-]{20,}|gh[opsur]_[A-Za-z0-9]{16,}"
    r"|github_pat_\w{16,}|glpat-[\w-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{12,}|xox[a-z]-[\w-]{8,}|xapp-[\w-]{8,}"
    r"|AIza[\w-]{30,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}|eyJ[\w-]{8,999}\.[\w-]{8,}\.[\w-]{8,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:(?!-----END)[\s\S])*"
)
_AFTER_PREFIX = (
    re.compile(r"((?:hooks\.slack\.com/\w+|discord(?:app)?\.com/api/webhooks|\.webhook\.office\.com)/)[^\s'\"]+"),
    re.compile(r"\b((?:Account|SharedAccess)Key=)[^;\s'\"]+"),
    re.compile(r"\b([Bb]earer\s+)(?=[\w.~+/-]{0,200}\d)[\w.~+/-]{12,}=*"),
    re.compile(r"\b([Bb]earer\s+)[\w.~+/-]{24,}=*"),
)
_IN_QUERY = re.compile(r"([?&]([\w.-]+)=)[^&\s]+")
# An assignment in a shell; neither a value that the shell reads from elsewhere nor a config key with dots is a secret.
_ASSIGNED = re.compile(
    r"((?<![\w.])([A-Z][A-Z0-9_]*)=)(?!\"?[$`]|[\"']?(?:\{|\*{3})|[\"']{2}|\s|$)(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s\"';,&|]+)"
)
_USER_AND_PASSWORD = re.compile(r"(\w://)[^\n]*@")
# Settings that a run id covers may have any text after an address, so a password there holds no blank and no slash.
_IN_DATA = (re.compile(rf"(://[^:/@\s]*:){_PORT}[^/\s]+(?=@)"), *_IN_URIS[1:])
T = TypeVar("T")
_SHORTEST_SECRET = 8  # shorter values occur in harmless text by chance
_LONGEST_FILE_BYTES = 65_536
_LONGEST_REMEMBERED = 1000  # letters


def refuse_secrets(subject: str, text: str, remedy: str, *, is_data: bool = False) -> None:
    """Refuse text that holds a password or a token.

    Args:
        subject: the user's name for the text, e.g. `the override`.
        text: the text that would be stored.
        remedy: a clause that says how to pass the secret safely.
        is_data: see `without_secrets`.

    Raises:
        UserError: the text holds a secret; the sentence shows the text with the secret masked.
    """
    if (masked := without_secrets(text, is_data=is_data)) != text:
        raise UserError(f"{subject} must hold no secret, got {masked!r}; {remedy}")


def without_secrets(value: T, *, is_data: bool = False) -> T:
    """Return a text, or a mapping, list, tuple or set of plain values, with secrets replaced by ***.

    Secrets are passwords in URIs, tokens of known shapes, values of environment variables whose names say so, and
    tokens in the files of Ray and the hub.

    Args:
        value: the value that would be shown or stored.
        is_data: whether the value is data of a run, such as a prompt. There an @ may follow any address and a program
            may assign to any name, so passwords with a blank or a slash, and TOKEN=value, are not masked.
    """
    return cast(T, _masked(value, _secrets_of(os.environ), is_data))


def without_user(address: str) -> str:
    """Return an address without its user and password, whatever characters they hold."""
    return _USER_AND_PASSWORD.sub(r"\1", without_secrets(address))


def _masked(value: object, secrets: tuple[str, ...], is_data: bool) -> object:
    if isinstance(value, Mapping):
        return {_masked(key, secrets, is_data): _masked(item, secrets, is_data) for key, item in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(_masked(item, secrets, is_data) for item in value)  # type: ignore[attr-defined,call-arg]
    if not isinstance(value, str):
        return value
    mask = _masked_text if len(value) < _LONGEST_REMEMBERED else _masked_text.__wrapped__
    return mask(value, secrets, is_data)


@lru_cache(maxsize=8192)  # the configs of a plan's runs share most texts
def _masked_text(text: str, secrets: tuple[str, ...], is_data: bool) -> str:
    in_addresses = (_IN_DATA if is_data else _IN_URIS) if "@" in text else ()  # each ends at an @
    for pattern in (*in_addresses, *_AFTER_PREFIX):
        text = pattern.sub(r"\1***", text)
    text = _IN_QUERY.sub(_mask_if_named, text)
    if not is_data:
        text = _ASSIGNED.sub(_mask_if_named, text)
    text = _SHAPES.sub("***", text)
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _mask_if_named(match: re.Match[str]) -> str:
    name = match[2].lower()
    return f"{match[1]}***" if name in _SIGNATURES or names_a_secret(name.replace("-", "_")) else match[0]


@lru_cache(maxsize=4096)
def names_a_secret(variable: str) -> bool:
    """Return whether an environment variable's name says that its value is a secret."""
    is_folder = variable.upper() in ("PWD", "OLDPWD")
    return bool(_SECRET_NAME.search(variable)) and not is_folder and not _TOKENS_OF_TEXT.search(variable)


def _secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    values = [value for name, value in environment.items() if names_a_secret(name) and not _is_file(value)]
    values += [token for file in _token_files(environment) for token in _tokens_in(file)]
    return tuple(sorted({value for value in values if len(value) >= _SHORTEST_SECRET}, key=len, reverse=True))


def _is_file(value: str) -> bool:
    """Return whether a value is the path of an existing file or folder, and so no secret itself."""
    return value.startswith("/") and os.path.exists(value)


def _token_files(environment: Mapping[str, str]) -> list[str]:
    """Return the files in which Ray and the hub's library store tokens (huggingface_hub.constants; `hf auth login`)."""
    home = os.path.expanduser("~")
    cache = environment.get("XDG_CACHE_HOME") or f"{home}/.cache"
    hubs = [os.path.expanduser(environment.get("HF_HOME") or f"{cache}/huggingface"), f"{home}/.cache/huggingface"]
    named = [environment[name] for name in ("RAY_AUTH_TOKEN_PATH", "HF_TOKEN_PATH") if environment.get(name)]
    of_hub = [f"{hub}/{name}" for hub in hubs for name in ("token", "stored_tokens")]
    beside = [os.path.join(os.path.dirname(file), "stored_tokens") for file in named]
    return list(dict.fromkeys([*map(os.path.expanduser, [*named, *beside]), f"{home}/.ray/auth_token", *of_hub]))


def _tokens_in(file: str) -> tuple[str, ...]:
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return ()
    return _read_tokens(file, status.st_mtime_ns, status.st_size, status.st_ino)


@lru_cache(maxsize=64)
def _read_tokens(file: str, *_: int) -> tuple[str, ...]:
    """Return the lines of a file; from a line `name = token`, only the token."""
    try:
        with Path(file).open(encoding="utf-8", errors="replace") as opened:
            lines = opened.read(_LONGEST_FILE_BYTES).split("\n")
    except OSError:
        return ()
    return tuple(line.rpartition(" = ")[2].strip() for line in lines if not line.startswith("["))
