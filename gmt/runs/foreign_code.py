"""Finds settings that allow untrusted code to run with the user's permissions. Reads configs only."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_CODE_BY_SETTING = {
    "run_untrusted_code_without_sandbox": "code that the model writes",
    "trust_remote_code": "code that comes with the model",
}


def foreign_code(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each setting that allows untrusted code to run without a sandbox.

    Args:
        configs: the configs of the runs; a part that several configs share as the same object is read once.
    """
    seen: set[int] = set()
    settings = dict.fromkeys(setting for config in configs for setting in _allowing_settings("", config, seen))
    return [
        f"{setting}=true lets {_CODE_BY_SETTING[setting.rpartition('.')[2]]} run with your permissions, so that it can "
        "change your files"
        for setting in settings
    ]


def _allowing_settings(prefix: str, value: Any, seen: set[int]) -> Iterator[str]:
    """Yield the paths in a config of the settings that allow untrusted code."""
    if isinstance(value, Mapping) and id(value) not in seen:
        seen.add(id(value))
        for key, part in value.items():
            if part is True and key in _CODE_BY_SETTING:
                yield f"{prefix}{key}"
            yield from _allowing_settings(f"{prefix}{key}.", part, seen)
