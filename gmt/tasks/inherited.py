"""Completes a composed task's config: removes entries that the user set to null, and columns of another data format.

A yaml or an override that builds on another can add entries to its mappings but not remove any; `null` removes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OF_NAMES = ("train", "target", "source")


def settled(task: Any) -> Any:
    """Return the task's config without removed entries; the same object if none is removed."""
    if not isinstance(task, Mapping):
        return task
    changes: dict[str, Any] = {
        name: {key: _part(value) for key, value in task[name].items() if value is not None}
        for name in _OF_NAMES
        if isinstance(task.get(name), Mapping) and (name != "train" or _has_only_mappings(task[name]))
    }
    changed = {**_part(task), **changes}
    return task if changed == task else changed


def _has_only_mappings(train: Mapping[str, Any]) -> bool:
    """Return whether `task.train` lists entries; a plug-in's may hold settings, for which `null` is a value."""
    entries = [value for value in train.values() if value is not None]
    return bool(entries) and all(isinstance(entry, Mapping) for entry in entries)


def _part(value: Any) -> Any:
    """Return an evaluation, or the task itself, with the columns of one data format."""
    if not isinstance(value, Mapping) or not isinstance(value.get("columns"), Mapping):
        return value
    return {**value, "columns": _of_one_format(value["columns"])}


def _of_one_format(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns without inherited ones of another format: messages, or chosen and rejected, exclude the others."""
    named = {key: value for key, value in columns.items() if value is not None}
    if "messages" in named:
        return {"messages": named["messages"]}
    if "chosen" in named or "rejected" in named:
        return {key: value for key, value in named.items() if key not in ("completion", "answer")}
    return named
