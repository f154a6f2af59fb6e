"""Faults of a study's axis, found when the study is planned."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from gmt.errors import UserError, choices
from gmt.studies.grid import Point, StudySettings

# Config groups that do not affect results, or that hold so many numbers that a sentence can't list them.
_NOT_LISTED = ("model", "task", "record", "resources", "tracking", "study", "search", "sweep")


def faults_of_axis(
    study: StudySettings, runs: Sequence[tuple[Point, Mapping[str, Any]]], typed: Collection[str]
) -> list[str]:
    """Return a sentence for each fault of a study's axis.

    An axis that the study names must be a number in some run and vary within some arm, unless the user typed its
    value. A line of a figure needs a number in all of its runs, or in none.

    Args:
        study: the study that names the axis.
        runs: the point and the resolved config of each compared run.
        typed: the settings that the user typed values for.
    """
    axis = study.along
    faults: dict[str, None] = {}
    by_arm: dict[str, set[float | None]] = {}
    by_line: dict[tuple[str, ...], set[float | None]] = {}
    for point, config in runs:
        try:
            value = axis.value(config)
        except UserError as error:
            faults |= dict.fromkeys(error.sentences)
            continue
        by_arm.setdefault(point.arm, set()).add(value)
        by_line.setdefault(_line(point, axis.setting), set()).add(value)
    faults |= {
        f"study.axis: {axis.setting} must be a number in all runs of {' '.join(line)}, or in none": None
        for line, values in by_line.items()
        if None in values and len(values) > 1
    }
    if faults or study.axis is None:
        return list(faults)
    if not any(values - {None} for values in by_arm.values()):
        known = {name for _, config in runs for name in _numbers(config)}
        return [f"study.axis must name a setting of some run, got {study.axis!r}; {choices(study.axis, known)}"]
    if axis.setting not in typed and all(len(values) < 2 for values in by_arm.values()):
        return [f"study.axis must name a setting that takes several values in some arm, got {study.axis!r}"]
    return []


def _line(point: Point, setting: str) -> tuple[str, ...]:
    """Return the key of a run's line in a figure: the arm, and the varied settings except the seed and the axis."""
    varied = (*point.varied, *point.lists_of_one)
    return point.arm, *(text for text in varied if text.lstrip("+").partition("=")[0] not in (setting, "seed"))


def _numbers(config: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield the dotted paths of a config's numbers that a study is likely to vary."""
    for key, value in config.items():
        if isinstance(value, Mapping) and (path or key not in _NOT_LISTED):
            yield from _numbers(value, f"{path}{key}.")
        elif path and isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{path}{key}"
