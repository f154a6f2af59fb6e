"""Finds settings that let code of others run with the user's own rights. Reads configs only."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_LETS_RUN = {
    "run_untrusted_code_without_sandbox": "code that the model writes",
    "trust_remote_code": "code that comes with the model",
}


def foreign_code(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each setting of a run that lets such code run without a sandbox.

    Args:
        configs: the configs of the runs; a part that several configs share as the same object is read once.
    """
    seen: set[int] = set()
    settings = dict.fromkeys(setting for config in configs for setting in _allowing("", config, seen))
    return [
        f"{setting}=true lets {_LETS_RUN[setting.rpartition('.')[2]]} run with your own rights, also over your files"
        for setting in settings
    ]


def _allowing(prefix: str, value: Any, seen: set[int]) -> Iterator[str]:
    if isinstance(value, Mapping) and id(value) not in seen:
        seen.add(id(value))
        for key, part in value.items():
            if part is True and key in _LETS_RUN:
                yield f"{prefix}{key}"
            yield from _allowing(f"{prefix}{key}.", part, seen)
