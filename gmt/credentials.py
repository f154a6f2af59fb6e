"""Keeps secrets out of what is written down or shown: overrides, scripts, manifests, logs, process lists.

A secret is known by where it comes from (a variable of the environment with a telling name, a token's file) or by its
shape (the password of an address, the prefix of a known kind of token).
"""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, cast

from gmt.errors import UserError

# As the end of a name, and as a word of its own at the end of one.
_KINDS = (
    r"(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL)S?|(?:API|ACCESS|SECRET|PRIVATE)_?KEY"
    r"|CONNECTION_?STRING|WEBHOOK(?:_?URL)?"
)
_WORDS = r"KEY|PAT|PWD|PASS|DSN|AUTH|JWT|COOKIE|CONN_?STR"
_SECRET_NAME = re.compile(rf"(?:{_KINDS}|_(?:{_WORDS}))$", re.IGNORECASE)
# How many tokens there are, or which of a tokenizer's.
_TOKENS_OF_TEXT = re.compile(
    r"(?:^|_)(?:N|NUM|NO|COUNT|MAX|MIN|NEW|TOTAL|PER|TRAIN|EVAL|INPUT|OUTPUT|PROMPT|COMPLETION|CONTEXT|CACHED|SEEN|"
    r"BATCHED|SPECIAL|ADDED|STOP|START|END|BOS|EOS|PAD|UNK|SEP|CLS|MASK|IMAGE|THINK\w*)_?TOKENS?$",
    re.IGNORECASE,
)
_SIGNATURES = ("sig", "signature", "x-amz-signature", "x-amz-credential", "x-goog-signature", "x-goog-credential")
# A password may hold any letter, so that one ends at the last @ of its line. Behind a host's name a few digits are a
# port, but not in a database's address, which has no @ behind its host, nor in the address of our store.
_PORT = r"""(?!\d{1,5}(?:[/?#\s,;'")\]}\\]|$))"""
_IN_URIS = (
    re.compile(rf"(://[^:/@\s]*:){_PORT}[^\n]+(?=@)"),
    re.compile(r"((?:postgres|mysql|mssql|oracle)\w*(?:\+\w+)?://[^:/@\n]*:)[^\n]+(?=@)"),
    re.compile(r"(tracking\.uri=\W*\w[\w+]*://)(?![^:/@\s]*:\*{3}@)[^\n]+(?=@)"),
    re.compile(r"(https?://)[^:/\s]+(?=@)"),  # a token as the user's name
)
# Each issuer's prefix, and fewer letters than its tokens have; after GitHub's and gitleaks' lists of patterns.
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|sk-(?:[a-z0-9]{1,20}-){0,3}\w{16,}[\w-]*"
    r"|sk-(?=[\w-]{0,200}[A-Z])(?=[\w-]{0,200}\d)[\w-]{20,}|gh[opsur]_[A-Za-z0-9]{16,}"
    r"|github_pat_\w{16,}|glpat-[\w-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{12,}|xox[a-z]-[\w-]{8,}|xapp-[\w-]{8,}"
    r"|AIza[\w-]{30,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}|eyJ[\w-]{8,999}\.[\w-]{8,}\.[\w-]{8,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:(?!-----END)[\s\S])*"
)
_BEHIND = (
    re.compile(r"((?:hooks\.slack\.com/\w+|discord(?:app)?\.com/api/webhooks|\.webhook\.office\.com)/)[^\s'\"]+"),
    re.compile(r"\b((?:Account|SharedAccess)Key=)[^;\s'\"]+"),
    re.compile(r"\b([Bb]earer\s+)(?=[\w.~+/-]{0,200}\d)[\w.~+/-]{12,}=*"),
    re.compile(r"\b([Bb]earer\s+)[\w.~+/-]{24,}=*"),
)
_IN_QUERY = re.compile(r"([?&]([\w.-]+)=)[^&\s]+")
# An assignment of a shell; what the shell reads from elsewhere is no secret, nor is a key of our config with dots.
_ASSIGNED = re.compile(
    r"((?<![\w.])([A-Z][A-Z0-9_]*)=)(?!\"?[$`]|[\"']?(?:\{|\*{3})|[\"']{2}|\s|$)(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s\"';,&|]+)"
)
_USER_AND_PASSWORD = re.compile(r"(\w://)[^\n]*@")
# In settings that a run id covers any text may follow an address, so that there a password holds no blank and no slash.
_IN_DATA = (re.compile(rf"(://[^:/@\s]*:){_PORT}[^/\s]+(?=@)"), *_IN_URIS[1:])
T = TypeVar("T")
_SHORTEST_SECRET = 8  # what is shorter is found in harmless text by chance
_LONGEST_FILE_BYTES = 65_536
_LONGEST_REMEMBERED = 1000  # letters


def refuse_secrets(what: str, text: str, remedy: str, *, is_data: bool = False) -> None:
    """Refuses text that holds a password or a token.

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
    """Return a text, or a mapping, list, tuple or set of plain values, with secrets as ***.

    Secrets are passwords of URIs, tokens of known shapes, the environment's, and those in the files of Ray and the hub.

    Args:
        value: what would be shown or written down.
        is_data: whether it is what a run is made of, such as a prompt, where an @ may follow any address and a program
            may assign to any name: a password with a blank or a slash is then not found, nor is TOKEN=value.
    """
    return cast(T, _masked(value, _secrets_of(os.environ), is_data))


def without_user(address: str) -> str:
    """One address without its user and password, whatever letters they hold."""
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


@lru_cache(maxsize=8192)  # the configs of a plan's runs are of the same texts
def _masked_text(text: str, secrets: tuple[str, ...], is_data: bool) -> str:
    in_addresses = (_IN_DATA if is_data else _IN_URIS) if "@" in text else ()  # each ends at an @
    for pattern in (*in_addresses, *_BEHIND):
        text = pattern.sub(r"\1***", text)
    text = _IN_QUERY.sub(_mask_if_named, text)
    if not is_data:
        text = _ASSIGNED.sub(_mask_if_named, text)
    text = _SHAPES.sub("***", text)
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _mask_if_named(found: re.Match[str]) -> str:
    name = found[2].lower()
    return f"{found[1]}***" if name in _SIGNATURES or names_a_secret(name.replace("-", "_")) else found[0]


@lru_cache(maxsize=4096)
def names_a_secret(variable: str) -> bool:
    """Whether an environment variable's name says that its value is a secret."""
    is_folder = variable.upper() in ("PWD", "OLDPWD")
    return bool(_SECRET_NAME.search(variable)) and not is_folder and not _TOKENS_OF_TEXT.search(variable)


def _secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    values = [value for name, value in environment.items() if names_a_secret(name) and not _is_file(value)]
    values += [token for file in _token_files(environment) for token in _tokens_in(file)]
    return tuple(sorted({value for value in values if len(value) >= _SHORTEST_SECRET}, key=len, reverse=True))


def _is_file(value: str) -> bool:
    """Whether a variable names a file or folder, such as that of a secret."""
    return value.startswith("/") and os.path.exists(value)


def _token_files(environment: Mapping[str, str]) -> list[str]:
    """Where Ray and the hub's library keep tokens (huggingface_hub.constants; `hf auth login` writes there)."""
    home = os.path.expanduser("~")
    cache = environment.get("XDG_CACHE_HOME") or f"{home}/.cache"
    hubs = [os.path.expanduser(environment.get("HF_HOME") or f"{cache}/huggingface"), f"{home}/.cache/huggingface"]
    named = [environment[name] for name in ("RAY_AUTH_TOKEN_PATH", "HF_TOKEN_PATH") if environment.get(name)]
    of_hub = [f"{hub}/{name}" for hub in hubs for name in ("token", "stored_tokens")]
    beside = [os.path.join(os.path.dirname(file), "stored_tokens") for file in named]
    return list(dict.fromkeys([*map(os.path.expanduser, [*named, *beside]), f"{home}/.ray/auth_token", *of_hub]))


def _tokens_in(file: str) -> tuple[str, ...]:
    try:
        about = os.stat(file)
    except (OSError, ValueError):
        return ()
    return _read_tokens(file, about.st_mtime_ns, about.st_size, about.st_ino)


@lru_cache(maxsize=64)
def _read_tokens(file: str, *_: int) -> tuple[str, ...]:
    """Return the lines of a file, of `name = token` the token."""
    try:
        with Path(file).open(encoding="utf-8", errors="replace") as opened:
            lines = opened.read(_LONGEST_FILE_BYTES).split("\n")
    except OSError:
        return ()
    return tuple(line.rpartition(" = ")[2].strip() for line in lines if not line.startswith("["))
