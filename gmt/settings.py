"""Checks that settings dataclasses run on themselves, worded as the user knows the setting.

Every plug-in (model, task, method) and every settings group is a frozen dataclass that checks its values in
`__post_init__`, so that a bad value is found when a study is planned and not when a run reaches it.
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
_LONGEST_NAME = 100  # with what we put around it, below the 250 of MLflow's keys and the 255 of a file's name


def neutral(value: Any) -> Any:
    """Return the field of a setting that an older class did not have.

    At its neutral value everything is as it was without the setting, and so is the run id. It is the default too, so
    that configs that were recorded before are still complete.

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
    """Returns `value` as a float, or raises one sentence.

    Args:
        setting: the name as the user writes it, e.g. `method.mask_ratio`.
        value: what was given.
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
    """Returns `value` as an int that is at least `low`, or raises one sentence."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise UserError(f"{setting} must be a whole number of at least {low}, got {_shown(value)}")
    return value


def boolean(setting: str, value: object) -> bool:
    """Returns `value` if it is true or false, or raises one sentence."""
    if not isinstance(value, bool):
        raise UserError(f"{setting} must be true or false, got {_shown(value)}")
    return value


def one_of(setting: str, value: object, valid: tuple[str, ...]) -> str:
    """Returns `value` if it is one of `valid`, or raises one sentence with the choices."""
    if value not in valid:
        raise UserError(f"{setting} must be one of {', '.join(valid)}, got {_shown(value)}")
    assert isinstance(value, str)
    return value


def text(setting: str, value: object) -> str:
    """Returns `value` if it is a text that is not empty, or raises one sentence."""
    if not isinstance(value, str) or not value:
        is_value = value is not None and not isinstance(value, str)
        hint = "; on the command line such a text is written KEY='\"VALUE\"'" if is_value else ""
        raise UserError(f"{setting} must be a text that is not empty, got {_shown(value)}{hint}")
    return value


def folder_name(setting: str, value: object) -> str:
    """Returns `value` if it can name a folder and a key in MLflow, or raises one sentence.

    Each name of a config that becomes a file, a folder or a key is checked here before anything is planned by it.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value in (".", "..") or len(value) > _LONGEST_NAME:
        raise UserError(
            f"{setting} must be of at most {_LONGEST_NAME} of the letters A-Z, a-z, 0-9, _, . and -, and not . or .., "
            f"got {_shown(value)[:_LONGEST_NAME]}"
        )
    return value


def folder_names(setting: str, values: Iterable[object]) -> list[str]:
    """Returns names for one place, where no two are the same on a disk that ignores case, or raises one sentence."""
    names = [folder_name(setting, value) for value in values]
    by_letters: dict[str, str] = {}
    for each in names:
        if (other := by_letters.setdefault(each.lower(), each)) != each:
            raise UserError(f"{setting} must differ from the others by more than case, got {other} and {each}")
    return names


def path(setting: str, value: object) -> Path:
    """Returns the absolute path that a text names, ~ as the home folder, or raises one sentence."""
    whole = Path(os.path.expanduser(text(setting, value))).absolute()
    try:
        str(whole).encode()
        return whole.resolve()
    except (ValueError, OSError, RuntimeError) as error:  # bytes that are no UTF-8, a zero byte, a loop of links
        raise UserError(f"{setting} must be a path that can be read as UTF-8, got {value!a}: {error}") from error


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else str(value)
