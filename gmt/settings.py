"""Checks of single values for settings dataclasses, with errors that name the setting as the user writes it.

Every plug-in (model, task, method) and every settings group is a frozen dataclass that checks its values in
`__post_init__`, so that planning a study finds a bad value before any run starts.
"""

import copy
import dataclasses
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gmt.errors import UserError

NEUTRAL = "neutral"
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_LONGEST_NAME = 100  # with our prefixes and suffixes, below the 250 of MLflow's keys and the 255 of a file's name


def neutral(value: Any) -> Any:
    """Return the dataclass field of a setting that was added to a class later.

    At its neutral value the setting changes nothing, and does not enter the run id. The neutral value is the default
    too, so that configs recorded before the setting existed stay complete.

    Example:
        momentum: float = settings.neutral(0.0)
    """
    return dataclasses.field(default_factory=lambda: copy.deepcopy(value), metadata={NEUTRAL: value})


def number(
    setting: str,
    value: object,
    rule: str,
    *,
    low: float,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = True,
) -> float:
    """Return `value` as a float.

    Args:
        setting: the name as the user writes it, e.g. `method.mask_ratio`.
        value: the value given.
        rule: the rule in words, e.g. `must lie in [0, 1)`.
        low: smallest value; excluded if `open_low`.
        high: largest value; excluded if `open_high`.

    Raises:
        UserError: `value` is not a finite real number inside the interval.
    """
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if ok:
        x = float(value)  # type: ignore[arg-type]
        ok = (x > low if open_low else x >= low) and (x < high if open_high else x <= high)
    if not ok:
        raise UserError(f"{setting} {rule}, got {_shown(value)}")
    return x


def integer(setting: str, value: object, *, low: int) -> int:
    """Return `value`; raise UserError unless it is an int of at least `low`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise UserError(f"{setting} must be a whole number of at least {low}, got {_shown(value)}")
    return value


def boolean(setting: str, value: object) -> bool:
    """Return `value`; raise UserError unless it is true or false."""
    if not isinstance(value, bool):
        raise UserError(f"{setting} must be true or false, got {_shown(value)}")
    return value


def one_of(setting: str, value: object, valid: tuple[str, ...]) -> str:
    """Return `value`; raise UserError with the choices unless it is one of `valid`."""
    if value not in valid:
        raise UserError(f"{setting} must be one of {', '.join(valid)}, got {_shown(value)}")
    assert isinstance(value, str)
    return value


def text(setting: str, value: object) -> str:
    """Return `value`; raise UserError unless it is a text that is not empty."""
    if not isinstance(value, str) or not value:
        is_value = value is not None and not isinstance(value, str)
        hint = "; on the command line such a text is written KEY='\"VALUE\"'" if is_value else ""
        raise UserError(f"{setting} must be a text that is not empty, got {_shown(value)}{hint}")
    return value


def folder_name(setting: str, value: object) -> str:
    """Return `value`; raise UserError unless it can name a folder and a key in MLflow.

    Each name in a config that becomes a file, a folder or a key is checked here before a study is planned.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value in (".", "..") or len(value) > _LONGEST_NAME:
        raise UserError(
            f"{setting} must consist of at most {_LONGEST_NAME} of the characters A-Z, a-z, 0-9, _, . and -, and must "
            f"not be . or .., got {_shown(value)[:_LONGEST_NAME]}"
        )
    return value


def folder_names(setting: str, values: Iterable[object]) -> list[str]:
    """Return names for one folder; raise UserError if one can't name a folder, or two differ in case only."""
    names = [folder_name(setting, value) for value in values]
    by_lower_case: dict[str, str] = {}
    for name in names:
        if (other := by_lower_case.setdefault(name.lower(), name)) != name:
            raise UserError(f"{setting} must differ from the others by more than case, got {other} and {name}")
    return names


def path(setting: str, value: object) -> Path:
    """Return the absolute path that a text names, with ~ as the home folder; raise UserError if the text names none."""
    absolute = Path(os.path.expanduser(text(setting, value))).absolute()
    try:
        str(absolute).encode()
        return absolute.resolve()
    except (ValueError, OSError, RuntimeError) as error:  # bytes that are not UTF-8, a zero byte, a loop of links
        raise UserError(f"{setting} must be a path that can be read as UTF-8, got {value!a}: {error}") from error


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else str(value)
