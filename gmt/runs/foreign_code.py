"""Which settings of a run let code that others wrote run with the user's own rights. Reads configs only."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_LETS_RUN = {
    "run_untrusted_code_without_sandbox": "code that the model writes",
    "trust_remote_code": "code that comes with the model",
}


def foreign_code(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each setting of some run by which such code has no walls around it.

    Args:
        configs: of the runs; parts that are one and the same object are read once.
    """
    seen: set[int] = set()
    named = dict.fromkeys(setting for config in configs for setting in _allowing("", config, seen))
    return [
        f"{setting}=true lets {_LETS_RUN[setting.rpartition('.')[2]]} run with your own rights, also over your files"
        for setting in named
    ]


def _allowing(prefix: str, value: Any, seen: set[int]) -> Iterator[str]:
    if isinstance(value, Mapping) and id(value) not in seen:
        seen.add(id(value))
        for key, part in value.items():
            if part is True and key in _LETS_RUN:
                yield f"{prefix}{key}"
            yield from _allowing(f"{prefix}{key}.", part, seen)
