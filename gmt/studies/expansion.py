"""Expands a study: from its arms to the points of its grids."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from gmt.studies.grid import Axes, Point, StudySettings, to_override_value
from gmt.studies.merge_arms import FROM, OVER, merge_arms, merge_points


def expand(study: StudySettings, typed: Axes) -> list[Point]:
    """Return the points of all runs of a study, arm by arm; the last setting varies fastest.

    Args:
        study: the study, with the grid of each arm.
        typed: the values that the user typed for each setting. If some arms have the setting, the typed values replace
            the values of these arms, and the other arms do not change. Otherwise they apply to every arm that trains,
            and merges inherit them; a setting of the group merge applies to the arms that merge, if there are any.

    Raises:
        UserError: an arm names its parents wrongly, see gmt.studies.merge_arms.
    """
    merges = {merge.arm: merge for merge in merge_arms(study.arms)}
    grids = {arm: _grid(study, arm, is_merge=arm in merges) for arm in study.arms}
    for key, values in typed.items():
        is_of_merge = key.partition(".")[0] == "merge" and bool(merges)
        arms_of_kind = [arm for arm in grids if (arm in merges) == is_of_merge]
        for arm in [arm for arm in grids if key in grids[arm]] or arms_of_kind:
            grids[arm][key] = list(values)
    points = {
        arm: list(_points(arm, axes, {**study.shared, **study.arms[arm]}))
        for arm, axes in grids.items()
        if arm not in merges
    }
    for arm, merge in merges.items():
        points[arm] = list(merge_points(merge, points[merge.parents], grids[arm]))
    return [point for arm in study.arms for point in points[arm]]


def _grid(study: StudySettings, arm: str, *, is_merge: bool) -> dict[str, list[str]]:
    """Return the axes of an arm; a merge inherits the shared ones from its parents."""
    arm_settings = {key: value for key, value in study.arms[arm].items() if not (is_merge and key in (FROM, OVER))}
    shared = {} if is_merge else {key: value for key, value in study.shared.items() if key not in arm_settings}
    return {
        key: [to_override_value(item) for item in value] if isinstance(value, list) else [to_override_value(value)]
        for key, value in {**arm_settings, **shared}.items()
    }


def _points(arm: str, axes: Axes, in_yaml: Mapping[str, Any]) -> Iterator[Point]:
    varied = {key for key, values in axes.items() if len(values) > 1}
    listed = {key for key, value in in_yaml.items() if isinstance(value, list)} - varied
    for combination in itertools.product(*axes.values()):
        pairs = {key: f"{key}={value}" for key, value in zip(axes, combination, strict=True)}
        yield Point(
            arm=arm,
            overrides=tuple(pairs.values()),
            varied=tuple(text for key, text in pairs.items() if key in varied),
            lists_of_one=tuple(text for key, text in pairs.items() if key in listed),
        )
