"""The run id: a hash of the settings that decide a run's result (its science), without where and how the run executes.

Science is model, task, method, train and seed, with the fingerprints of weights and data. A value without a stable
form is an error, so that two different runs never share an id. (The idea is marin's and exca's.)
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from gmt.errors import UserError

SCIENCE_GROUPS = ("model", "task", "method", "train", "seed")
OPTIONAL_GROUPS = ("selection", "merge", "parents")  # enter the id too, unless they are null or missing
_ID_LENGTH = 16  # hex digits: 64 bits; a million runs have a collision with probability 3e-8


def canonical(value: object, where: str = "config") -> object:
    """Return the stable form of a plain value: mappings sorted by key, integral floats as ints, tuples as lists.

    Args:
        value: a mapping, list, text, number, bool or null.
        where: the config key of the value, for errors.

    Raises:
        UserError: the value, or a value inside it, has another type, or is NaN or infinite.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{where} must be a finite number, got {value}")
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        if bad := [k for k in value if not isinstance(k, str)]:
            raise UserError(f"{where} must have texts as keys, got {bad[0]!r}")
        return {k: canonical(value[k], f"{where}.{k}") for k in sorted(value)}
    if isinstance(value, list | tuple):
        return [canonical(v, f"{where}[{i}]") for i, v in enumerate(value)]
    raise UserError(f"{where} has no stable form to hash: {value!r} of type {type(value).__name__}")


def science_of(
    config: Mapping[str, Any],
    fingerprints: Mapping[str, str],
    canonical_of: Callable[[object, str], object] = canonical,
) -> dict[str, Any]:
    """Return the part of a resolved config that decides a run's result, in canonical form.

    Args:
        config: the resolved config; groups that are not science are ignored.
        fingerprints: hashes of weights and data, e.g. `{"model": "sha256:...", "task": "..."}`.
        canonical_of: `canonical`, or a version of it that remembers results.
    """
    optional = [group for group in OPTIONAL_GROUPS if config.get(group) is not None]
    groups = {group: canonical_of(config[group], group) for group in (*SCIENCE_GROUPS, *optional)}
    return groups | {"fingerprints": canonical(fingerprints, "fingerprints")}


def run_id(science: Mapping[str, Any]) -> str:
    """Return the id of a run: the first 16 hex digits of the SHA-256 of its canonical science."""
    canonical_science = canonical(science)
    assert isinstance(canonical_science, dict)
    return id_of_texts({group: text_in_ids(part) for group, part in canonical_science.items()})


def text_in_ids(canonical_part: object) -> str:
    """Return a canonical value as the text that an id hashes."""
    return json.dumps(canonical_part, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def id_of_texts(texts: Mapping[str, str]) -> str:
    """Return the id of a run from the text of each part of its canonical science, by group."""
    text = ",".join(f"{text_in_ids(group)}:{texts[group]}" for group in sorted(texts))
    return hashlib.sha256(f"{{{text}}}".encode()).hexdigest()[:_ID_LENGTH]
