"""Errors of Hydra and OmegaConf as sentences for the user."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    GrammarParseError,
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from yaml import YAMLError

from gmt.config_files import groups
from gmt.errors import UserError, choices

_READERS = frozenset({"antlr4", "hydra", "omegaconf", "yaml"})
_NOT_A_GROUP_NAME = "Config group override must be"  # the beginning of Hydra's ValueError


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn the errors of Hydra and OmegaConf, which are the user's mistakes, into sentences."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error
    except (YAMLError, ValueError, RecursionError) as error:
        if str(error).startswith(_NOT_A_GROUP_NAME):
            sentence = "a config group must be set to the name of one of its files; ~GROUP removes the group"
            raise UserError(sentence) from error
        if not _is_from_reading(error):
            raise
        raise UserError(_unreadable(error)) from error


def _is_from_reading(error: BaseException) -> bool:
    """Return whether Hydra, or a library by which it reads configs, raised an error, and not code that it called."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    innermost = 50 if isinstance(error, RecursionError) else 5  # a reader may end in Python's own library
    modules = (str(frame.f_globals.get("__name__")) for frame in frames[-innermost:])
    return any(module.partition(".")[0] in _READERS for module in modules)


def _unreadable(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "a config must not include itself, and must not be nested too deep for Python to read"
    if isinstance(error, UnicodeDecodeError):
        return f"a config must be UTF-8 text ({error})"
    return f"a config can't be read: {' '.join(str(error).split())}"


def explain(error: HydraException | OmegaConfBaseException) -> str:
    """Return a sentence for an error of Hydra or OmegaConf."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, wanted = error.missing_cfg_file.rpartition("/")
        return f"there is no {group} {wanted!r}; {choices(wanted, error.options)}"
    cause = error.__cause__
    if not str(error).strip() and isinstance(cause, OmegaConfBaseException):
        return explain(cause)
    if isinstance(error, InterpolationKeyError | GrammarParseError):
        return f"{_first_lines(error)}; to write ${{ in a text, write \\${{"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing; set it with {error.full_key}=VALUE"
    if isinstance(error, ConfigCompositionException) and isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(error, cause)
    lines = str(error).strip().split("\n")
    if lines[0].startswith("Ambiguous value"):
        return (
            f"{lines[0]}: write a text with commas as KEY=\\'A,B\\', a list as KEY=[A,B]; several runs need --multirun"
        )
    return _first_lines(error)


def _first_lines(error: Exception) -> str:
    return re.sub(r"\s+", " ", " ".join(str(error).strip().split("\n")[:2])).strip() or type(error).__name__


def _unknown_key(error: ConfigCompositionException, cause: ConfigAttributeError | ConfigKeyError) -> str:
    key, parent = str(cause.key), cause.parent_node
    full_key = str(cause.full_key or key)
    place = full_key.rpartition(".")[0] or "the config"
    known = [str(k) for k in parent] if OmegaConf.is_dict(parent) else []
    if place == "the config" and not known:
        known = groups()
    return f"{place} has no setting {key!r}; {choices(key, [k for k in known if k != 'hydra'])}"
