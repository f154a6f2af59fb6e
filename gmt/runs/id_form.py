"""What of a config is hashed to its run id, so that older ids last when the code grows. Imports no torch.

A class stands in an id by a name that it keeps when it moves or is renamed, and a setting that is new stands there only
where it changes something.
"""

import dataclasses
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from gmt.errors import UserError
from gmt.plug_ins import class_of
from gmt.records.identity import canonical
from gmt.settings import NEUTRAL

_NAME = "name_in_ids"


def id_form(group: str, values: Mapping[str, Any], kind: type | None = None) -> dict[str, Any]:
    """Return a group's settings as the run id hashes them.

    Args:
        group: the config key, for errors.
        values: the settings; mappings among them may be plug-ins, as the group itself may be.
        kind: the settings' class, where no `_target_` names it.

    Returns:
        A copy in which each `_target_` is the class's `name_in_ids`, by default its import path, and which lacks the
        settings that are at their neutral value (see gmt.settings.neutral).

    Raises:
        UserError: a target names no class, or a class stands by the name of another.
    """
    target = values.get("_target_")
    if isinstance(target, str):
        kind = class_of(group, target)
    neutral = {} if kind is None else _neutral_values(kind)
    form: dict[str, Any] = {}
    for key, value in values.items():
        if key == "_target_" and kind is not None:
            form[key] = _name_in_ids(kind)
        elif key not in neutral or json.dumps(canonical(value, f"{group}.{key}")) != neutral[key]:
            form[key] = id_form(f"{group}.{key}", value) if isinstance(value, Mapping) else value
    return form


@lru_cache(maxsize=64)
def _neutral_values(kind: Any) -> dict[str, str]:
    """Return the stable forms of neutral values, in which 0 and 0.0 are one and false is another."""
    fields = [field for field in dataclasses.fields(kind) if NEUTRAL in field.metadata]
    return {field.name: json.dumps(canonical(field.metadata[NEUTRAL])) for field in fields}


@lru_cache(maxsize=64)
def _name_in_ids(kind: type) -> str:
    path = f"{kind.__module__}.{kind.__qualname__}"
    name = vars(kind).get(_NAME, path)  # its own: a class that inherits from another is another
    if not isinstance(name, str) or not name:
        raise UserError(f"class {path} must have a text as {_NAME}, got {name!r}")
    if name != path and _class_at(name) not in (None, kind):
        raise UserError(f"class {path} must not stand in run ids as {name!r}, which is another class that is there")
    return name


def _class_at(path: str) -> type | None:
    try:
        return class_of(_NAME, path)
    except UserError:
        return None
