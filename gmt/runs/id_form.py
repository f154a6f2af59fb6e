"""The form in which a config is hashed to its run id; it keeps older ids valid when the code grows. Imports no torch.

A class enters an id under a name that it keeps when it moves or is renamed, and a new setting enters an id only if it
is not at its neutral value.
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


def id_form(group: str, values: Mapping[str, Any], settings_class: type | None = None) -> dict[str, Any]:
    """Return a group's settings as the run id hashes them.

    Args:
        group: the config key, for errors.
        values: the settings; the group, and mappings in it, may be plug-ins.
        settings_class: the settings' class, if no `_target_` names it.

    Returns:
        A copy in which each `_target_` is the class's `name_in_ids`, by default its import path, and which lacks the
        settings that are at their neutral value (see gmt.settings.neutral).

    Raises:
        UserError: a target names no class, or two classes have the same `name_in_ids`.
    """
    target = values.get("_target_")
    if isinstance(target, str):
        settings_class = class_of(group, target)
    neutral = {} if settings_class is None else _neutral_values(settings_class)
    form: dict[str, Any] = {}
    for key, value in values.items():
        if key == "_target_" and settings_class is not None:
            form[key] = _name_in_ids(settings_class)
        elif key not in neutral or json.dumps(canonical(value, f"{group}.{key}")) != neutral[key]:
            form[key] = id_form(f"{group}.{key}", value) if isinstance(value, Mapping) else value
    return form


@lru_cache(maxsize=64)
def _neutral_values(settings_class: Any) -> dict[str, str]:
    """Return the neutral values by setting, in the canonical form, in which 0 equals 0.0 and differs from false."""
    fields = [field for field in dataclasses.fields(settings_class) if NEUTRAL in field.metadata]
    return {field.name: json.dumps(canonical(field.metadata[NEUTRAL])) for field in fields}


@lru_cache(maxsize=64)
def _name_in_ids(plug_in_class: type) -> str:
    path = f"{plug_in_class.__module__}.{plug_in_class.__qualname__}"
    name = vars(plug_in_class).get(_NAME, path)  # never inherited, since a subclass is another class
    if not isinstance(name, str) or not name:
        raise UserError(f"class {path} must have a text as {_NAME}, got {name!r}")
    if name != path and _class_at(name) not in (None, plug_in_class):
        raise UserError(f"class {path} must not have {_NAME}={name!r}, which is the path of another class")
    return name


def _class_at(path: str) -> type | None:
    try:
        return class_of(_NAME, path)
    except UserError:
        return None
