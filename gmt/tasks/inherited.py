"""Completes a composed task's config: drops the entries that a user set to null, and keeps columns of one kind.

A yaml or an override that builds on another can add to its mappings, and not take from them: `null` drops an entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OF_NAMES = ("train", "target", "source")


def settled(task: Any) -> Any:
    """The task's config without dropped entries; the same object where nothing is dropped."""
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
    """Whether `task.train` lists entries; that of a plug-in may hold settings, for which `null` is a value."""
    entries = [value for value in train.values() if value is not None]
    return bool(entries) and all(isinstance(entry, Mapping) for entry in entries)


def _part(value: Any) -> Any:
    """An evaluation, or the task itself, with columns of one kind."""
    if not isinstance(value, Mapping) or not isinstance(value.get("columns"), Mapping):
        return value
    return {**value, "columns": _of_one_kind(value["columns"])}


def _of_one_kind(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Columns without those that were inherited with another kind: messages, or a choice between two, say it all."""
    named = {key: value for key, value in columns.items() if value is not None}
    if "messages" in named:
        return {"messages": named["messages"]}
    if "chosen" in named or "rejected" in named:
        return {key: value for key, value in named.items() if key not in ("completion", "answer")}
    return named
