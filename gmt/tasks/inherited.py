"""Removes entries that the user set to null from a composed task's config, and columns of another data format.

A yaml that inherits from another, or an override, can add entries to a mapping but can't remove one; the value `null`
marks an entry for removal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MAPPINGS = ("train", "target", "source")  # from a name to an entry


def without_removed_entries(task: Any) -> Any:
    """Return the task's config without the entries to remove; the same object if there are none."""
    if not isinstance(task, Mapping):
        return task
    changes: dict[str, Any] = {
        name: {key: _part(value) for key, value in task[name].items() if value is not None}
        for name in _MAPPINGS
        if isinstance(task.get(name), Mapping) and (name != "train" or _has_only_mappings(task[name]))
    }
    changed = {**_part(task), **changes}
    return task if changed == task else changed


def _has_only_mappings(train: Mapping[str, Any]) -> bool:
    """Return whether `task.train` holds entries by name; in a plug-in it may hold settings, which `null` may set."""
    entries = [value for value in train.values() if value is not None]
    return bool(entries) and all(isinstance(entry, Mapping) for entry in entries)


def _part(value: Any) -> Any:
    """Return an evaluation, or the task itself, with the columns of one data format."""
    if not isinstance(value, Mapping) or not isinstance(value.get("columns"), Mapping):
        return value
    return {**value, "columns": _of_one_format(value["columns"])}


def _of_one_format(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of one format: messages, chosen and rejected rule out inherited columns of another format."""
    named = {key: value for key, value in columns.items() if value is not None}
    if "messages" in named:
        return {"messages": named["messages"]}
    if "chosen" in named or "rejected" in named:
        return {key: value for key, value in named.items() if key not in ("completion", "answer")}
    return named
