"""The points of a tuned study: the choices that are tuned, the runs that try values, and the compared runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gmt.errors import UserError
from gmt.studies.grid import Point, label_of_choice, setting_of, to_override_value, without
from gmt.studies.tuning import ARM, TuningSettings

_SEED = "seed"


def cells(points: Sequence[Point], tuning: TuningSettings, *, axis: str) -> list[list[Point]]:
    """Group points by the choice that is tuned: all points of a group get one value.

    The points of a group differ only in the seed and in the settings that `tuning.overrides` fixes. If tuning chooses
    one value for each arm, they also differ in the axis.

    Args:
        points: the points of the comparison that train.
        tuning: the tuning of the study.
        axis: the setting that is the study's axis.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[Point]] = {}
    for point in points:
        groups.setdefault((point.arm, without(point.overrides, _differing_within_a_choice(tuning, axis))), []).append(
            point
        )
    return list(groups.values())


def trial_points(cell: Sequence[Point], tuning: TuningSettings) -> list[Point]:
    """Return the points of a choice at which each value is tried: one, or one for each value of the axis."""
    distinct: dict[tuple[str, ...], Point] = {}
    for point in cell:
        distinct.setdefault(without(point.overrides, (_SEED, *tuning.overrides)), point)
    return list(distinct.values())


def label_of(cell: Sequence[Point], tuning: TuningSettings, *, axis: str) -> str:
    """Return the label of a tuned choice."""
    return label_of_choice(cell[0], fixed=_differing_within_a_choice(tuning, axis))


def _differing_within_a_choice(tuning: TuningSettings, axis: str) -> tuple[str, ...]:
    """Return the settings in which the points of a choice differ, the seed first."""
    return (_SEED, *tuning.overrides, *((axis, f"+{axis}") if tuning.value_per == ARM else ()))


def refuse_tuned_setting(points: Sequence[Point], tuning: TuningSettings) -> None:
    """Refuse points that set the tuned setting.

    Raises:
        UserError: a point sets the tuned setting.
    """
    override = next((text for p in points for text in p.overrides if setting_of(text) == tuning.setting), None)
    if override is not None:
        raise UserError(f"{tuning.setting} must not be set, since study.tuning tunes it, got {override}")


def compared(point: Point, tuning: TuningSettings, value: float) -> Point:
    """Return a point of the comparison with the value that was chosen for it."""
    return replace(point, overrides=(*point.overrides, _override(tuning.setting, value)))


def compared_merge(point: Point, tuning: TuningSettings, values: Mapping[Point, float]) -> Point:
    """Return a point of the comparison that merges, with the values that were chosen for the trainings that it merges.

    If the parents have several values, the merge has the first one in its config, like the other settings of the first
    parent, and no value in tables.

    Args:
        point: the merging point.
        tuning: the tuning of the study.
        values: the value of each training.
    """
    parents = tuple(
        compared_merge(parent, tuning, values) if parent.parents else compared(parent, tuning, values[parent])
        for parent in point.parents
    )
    used = list(dict.fromkeys(values[training] for training in trainings(point)))
    differing = tuple(dict.fromkeys((*point.differing_settings, *([tuning.setting] if len(used) > 1 else []))))
    return replace(compared(point, tuning, used[0]), parents=parents, differing_settings=differing)


def trainings(point: Point) -> list[Point]:
    """Return the trainings whose weights a point merges, also through other merges; a training itself."""
    return [training for parent in point.parents for training in trainings(parent)] if point.parents else [point]


def trial(point: Point, tuning: TuningSettings, value: float, seed: int | None = None) -> Point:
    """Return the point that tries a value for a choice.

    Args:
        point: any point of the choice.
        tuning: the tuning of the study.
        value: the value to try.
        seed: a seed of the tuning; None if `overrides` fix it.
    """
    others = {key: to_override_value(setting) for key, setting in tuning.overrides.items()}
    if seed is not None:
        others[_SEED] = str(seed)
    overrides = {setting_of(text): text for text in without(point.overrides, (_SEED,))}
    # The values replace the comparison's in place: the composer can reuse a composition with the same order of groups.
    overrides |= {key: f"{key}={text}" for key, text in others.items()}
    tried = _override(tuning.setting, value)
    varied_seed = [overrides[_SEED]] if len(tuning.seeds) > 1 else []
    return Point(
        arm=point.arm,
        overrides=(*overrides.values(), tried),
        varied=(*without(point.varied, (_SEED, *others)), tried, *varied_seed),
        stage="tuning",
    )


def _override(key: str, value: float) -> str:
    return f"{key}={to_override_value(value)}"
