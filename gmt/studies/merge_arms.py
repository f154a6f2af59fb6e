"""Arms of a study that merge the runs of another arm: their parents and their settings.

A merge has the settings of its parents and those of its arm. `over` names the setting in which the parents differ; in
all other settings, including the seed, they are equal, so that runs of different arms can be paired by the seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gmt import settings
from gmt.errors import UserError, choices
from gmt.studies.grid import Axes, Point, setting_of, without

FROM, OVER = "from", "over"
_NOT_INHERITED = ("merge", "parents")


@dataclass(frozen=True, kw_only=True)
class MergeArm:
    """An arm that merges, and the arm of its parents.

    Args:
        arm: the name of the arm.
        parents: the arm whose runs are merged.
        differing_setting: the setting in which the parents of a run differ; None if each run has one parent.
    """

    arm: str
    parents: str
    differing_setting: str | None


def merge_arms(arms: Mapping[str, Mapping[str, Any]]) -> list[MergeArm]:
    """Return the arms that merge, each after the arm of its parents.

    Raises:
        UserError: `from` names no arm or leads back to its own, or an arm has `over` without `from`.
    """
    merges = {arm: _merge_arm(arm, values, arms) for arm, values in arms.items() if FROM in values or OVER in values}
    ordered: dict[str, MergeArm] = {}
    while rest := [merge for arm, merge in merges.items() if arm not in ordered]:
        ready = [merge for merge in rest if merge.parents not in merges or merge.parents in ordered]
        if not ready:
            merge = rest[0]
            raise UserError(f"study.arms.{merge.arm}.from must not lead back to the arm itself, got {merge.parents!r}")
        ordered |= {merge.arm: merge for merge in ready}
    return list(ordered.values())


def _merge_arm(arm: str, values: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]]) -> MergeArm:
    where = f"study.arms.{arm}"
    if FROM not in values:
        raise UserError(f"{where}.over needs {where}.from, which names the arm of the parents")
    parents = settings.text(f"{where}.from", values[FROM])
    if parents not in arms:
        raise UserError(f"{where}.from must name an arm of the study, got {parents!r}; {choices(parents, arms)}")
    if values.get("merge") is None:
        raise UserError(f"{where}.merge must be set in an arm with from, got {values.get('merge')}")
    differing_setting = None if values.get(OVER) is None else settings.text(f"{where}.over", values[OVER])
    return MergeArm(arm=arm, parents=parents, differing_setting=differing_setting)


def merge_points(merge: MergeArm, parents: Sequence[Point], axes: Axes) -> Iterator[Point]:
    """Yield the points of an arm that merges.

    Args:
        merge: the arm.
        parents: all points of the parents' arm.
        axes: the settings of the merging arm, each with its values. A setting in which the parents differ chooses among
            them; any other is a setting of the merge alone.

    Raises:
        UserError: the parents have fewer than two values of `over`.
    """
    values = {key: {_pairs(parent).get(key) for parent in parents} for key in axes}
    chooses = [key for key in axes if key != merge.differing_setting and len(values[key]) > 1]
    if merge.differing_setting is not None:
        _check_over(merge, parents)
    groups: dict[tuple[str, ...], list[Point]] = {}
    for parent in parents:
        groups.setdefault(without(parent.overrides, (merge.differing_setting,)), []).append(parent)
    for group in groups.values():
        inherited = _inherited(group[0], merge.differing_setting)
        for combination in itertools.product(*axes.values()):
            pairs = {key: f"{key}={value}" for key, value in zip(axes, combination, strict=True)}
            if any(pairs[key] != _pairs(group[0]).get(key) for key in chooses):
                continue
            yield replace(
                inherited,
                arm=merge.arm,
                overrides=(*pairs.values(), *without(inherited.overrides, pairs)),
                varied=(
                    *without(inherited.varied, pairs),
                    *(text for key, text in pairs.items() if len(axes[key]) > 1),
                ),
                lists_of_one=without(inherited.lists_of_one, pairs),
                parents=tuple(group),
                differing_settings=tuple(
                    key
                    for key in (*group[0].differing_settings, merge.differing_setting)
                    if key is not None and key not in pairs
                ),
            )


def _check_over(merge: MergeArm, parents: Sequence[Point]) -> None:
    assert merge.differing_setting is not None
    if len({_pairs(parent).get(merge.differing_setting) for parent in parents}) < 2:
        listed = dict.fromkeys(setting_of(text) for parent in parents for text in parent.varied)
        raise UserError(
            f"study.arms.{merge.arm}.over must be a setting for which arm {merge.parents} has at least 2 values, got "
            f"{merge.differing_setting!r}; {choices(merge.differing_setting, listed)}"
        )


def _inherited(parent: Point, differing_setting: str | None) -> Point:
    """Return a parent's point without the differing setting, and without the parent's own merge settings."""
    keys = map(setting_of, parent.overrides)
    removed = [key for key in keys if _is_of_merge(key) or key == differing_setting]
    return replace(
        parent,
        overrides=without(parent.overrides, removed),
        varied=without(parent.varied, removed),
        lists_of_one=without(parent.lists_of_one, removed),
    )


def _is_of_merge(key: str) -> bool:
    return key.partition(".")[0] in _NOT_INHERITED


def _pairs(point: Point) -> dict[str, str]:
    return {setting_of(text): text for text in point.overrides}
