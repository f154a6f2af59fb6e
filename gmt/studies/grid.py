"""The settings of a study: a grid of runs for each arm, where each setting has a value or a list of values to cross."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from gmt import settings
from gmt.axis import Axis
from gmt.errors import UserError, choices, together
from gmt.runs.build import settings_of
from gmt.verdicts.pairs import Choice
from gmt.verdicts.question import FEWEST, LEVEL, Question

# Texts that need no quotes in Hydra's override grammar.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@-]*[A-Za-z_./:@-][A-Za-z0-9_./:@-]*")
_BASELINE = "sft"
_RESERVED_WORDS = {"true", "false", "null", "nan", "inf", "-inf"}

_WITH_OWN_COLUMN = ("model", "model.name", "task", "task.data_seed", "task.question_seed", "seed")

PROVENANCE = ("verified", "secondary", "guessed")
Axes = Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """A set of runs that answers a question.

    Args:
        name: the name of the study, of its folder and of its MLflow experiment.
        question: the question in words, for the report and for MLflow.
        shared: the settings of every arm: each config key with a value, or with a list of values to cross.
        arms: the settings of each arm by its name, in the form of `shared`, whose settings they override. An arm that
            merges has `from`, the arm of its parents, and if each of its runs has several parents also `over`, the
            setting in which these differ (gmt.studies.merge_arms).
        tuning: the tuning before the comparison, see gmt.studies.tuning.TuningSettings; None for no tuning.
        baseline: the arm that the report compares the others with.
        margin: the smallest difference of scores that matters to the question, which tests of equivalence use; a
            fraction in (0, 1).
        primary: the questions that the study was made for, by name, see gmt.verdicts.question.Question; the study's
            `margin` is the default of their margins. None: all tests are exploratory.
        looks: the stop rule: the numbers of seeds after which the primary questions are decided. Choices in undecided
            comparisons then get more seeds, up to the next number in the list. Each look has an equal share of the
            level, so that repeated looks do not make a false verdict more likely. Empty: only the listed seeds.
        axis: the setting on the x axis of figures, along which tests compare, e.g. `method.rank`; its values are
            numbers. None: `method.mask_ratio`, whether or not it varies. An arm without the setting is a level line.
        provenance: for a study that replicates another one, the source of each setting: `verified` (read in the
            original), `secondary` (reported by others) or `guessed`; None for any other study.
    """

    name: str
    question: str
    shared: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Any]]
    tuning: Mapping[str, Any] | None = None
    baseline: str = _BASELINE
    margin: float = 0.02
    primary: Mapping[str, Mapping[str, Any]] | None = None
    looks: Sequence[int] = ()
    axis: str | None = None
    provenance: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        settings.folder_name("study.name", self.name)
        settings.text("study.question", self.question)
        settings.text("study.baseline", self.baseline)
        settings.number("study.margin", self.margin, "must lie in (0, 1)", low=0, high=1, open_low=True)
        self._check_axis()
        self._check_looks(len(self.questions))
        if not isinstance(self.arms, Mapping) or not self.arms:
            raise UserError(f"study.arms must name at least one arm, got {self.arms!r}")
        settings.folder_names("the name of an arm in study.arms", self.arms)
        grids = {"study.shared": self.shared, **{f"study.arms.{arm}": grid for arm, grid in self.arms.items()}}
        for where, grid in grids.items():
            if not isinstance(grid, Mapping):
                raise UserError(f"{where} must be a mapping of settings, got {grid!r}")
            for key, value in grid.items():
                if isinstance(value, list) and not value:
                    raise UserError(f"{where}.{key} must hold at least one value, got []")
                if str(key).lstrip("+").partition(".")[0] == "study":
                    raise UserError(f"{where} must hold settings of runs, got {key}, which is the study's")
        if self.baseline != _BASELINE and self.baseline.partition(" ")[0] not in self.arms:
            raise UserError(f"study.baseline must name an arm, got {self.baseline!r}; {choices('', self.arms)}")
        for key, word in (self.provenance or {}).items():
            settings.one_of(f"study.provenance.{key}", word, PROVENANCE)

    def _check_axis(self) -> None:
        if self.axis is None:
            return
        settings.text("study.axis", self.axis)
        if self.axis == "seed":
            raise UserError("study.axis must not be seed: runs are compared on the same seed")
        if self.tuning is not None and self.tuning.get("setting") == self.axis:
            raise UserError(f"study.axis must not be the setting that study.tuning tunes, got {self.axis}")

    def _check_looks(self, num_questions: int) -> None:
        looks = self.looks
        if not isinstance(looks, Sequence) or isinstance(looks, str) or list(looks) != sorted(set(looks)):
            raise UserError(f"study.looks must list growing numbers of seeds, got {looks!r}")
        for number in looks:
            settings.integer("study.looks", number, low=FEWEST)
        if looks and not num_questions:
            raise UserError("study.looks needs study.primary, since only primary questions can be undecided")

    @property
    def level(self) -> float:
        """The probability of a false verdict on one primary question at one look."""
        return LEVEL / max(len(self.questions), 1) / max(len(self.looks), 1)

    @property
    def questions(self) -> list[Question]:
        """The primary questions.

        Raises:
            UserError: a question's settings are wrong.
        """
        return questions_of(self.primary, self.margin)

    @property
    def along(self) -> Axis:
        """The study's axis; the default one if `axis` is None."""
        return Axis() if self.axis is None else Axis(self.axis)


def questions_of(primary: object, margin: float) -> list[Question]:
    """Return the questions that `study.primary` declares.

    Args:
        primary: the value of `study.primary`.
        margin: the study's margin, the default of a question's margin.

    Raises:
        UserError: a question's settings are wrong.
    """
    if primary is not None and not isinstance(primary, Mapping):
        raise UserError(f"study.primary must be a mapping of questions, got {primary!r}")
    declared = dict(primary or {})
    settings.folder_names("the name of a question in study.primary", declared)
    return together(*(partial(_question, name, values, margin) for name, values in declared.items()))


def _question(name: str, values: object, margin: float) -> Question:
    if not isinstance(values, Mapping) or "name" in values:
        raise UserError(f"study.primary.{name} must be a mapping of settings, without a name, got {values!r}")
    return settings_of(f"study.primary.{name}", Question, {"name": name, "margin": margin, **values})


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run of a grid before its config is composed.

    Args:
        arm: the arm's name.
        overrides: all overrides of the run.
        varied: the overrides of settings that vary within the study.
        lists_of_one: the overrides of settings that the study lists with a single value; the label has them too.
        stage: `comparison`, or `tuning` for a run that only helps to choose a setting and enters no table.
        parents: the points that a merge combines.
        differing_settings: the settings in which the parents, or their own parents, differ; the merge has no value of
            these.
    """

    arm: str
    overrides: tuple[str, ...]
    varied: tuple[str, ...]
    lists_of_one: tuple[str, ...] = ()
    stage: str = "comparison"
    parents: tuple["Point", ...] = ()
    differing_settings: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The run's name for people: the arm and its listed settings, e.g. `lora rank=8 seed=1`."""
        pairs = (f"{key.rpartition('.')[2]}={value}" for key, value in self.listed)
        return " ".join([self.arm, *pairs, *self._stage_in_words])

    @property
    def listed(self) -> list[tuple[str, str]]:
        """The settings that the study lists values for, each with the run's value, in the order of the overrides."""
        listed = (*self.varied, *self.lists_of_one)
        in_order = [override for override in self.overrides if override in listed]
        in_order += [override for override in self.varied if override not in in_order]
        return [(key, value) for key, _, value in (override.partition("=") for override in in_order)]

    @property
    def _stage_in_words(self) -> list[str]:
        return [] if self.stage == "comparison" else [f"({self.stage})"]

    def short_name(self, axis: Axis, *, with_seed: bool = True) -> str:
        """Return a short name that begins with what differs, e.g. `gmt 0.9 s1 sums`, for lists that cut off names.

        Args:
            axis: the study's axis; its value is written without the setting's name.
            with_seed: whether the name has the seed.
        """
        listed = {key.lstrip("+"): value for key, value in self.listed}
        value, seed = listed.pop(axis.setting, None), listed.pop("seed", None)
        short = [value, f"s{seed}" if seed is not None and with_seed else None]
        others = [text if key == "task" else f"{key.rpartition('.')[2]}={text}" for key, text in listed.items()]
        return " ".join([self.arm, *filter(None, short), *others, *self._stage_in_words])


def arm_of(point: Point, axis: Axis) -> str:
    """Return the arm with the varied settings that have no column of their own, e.g. `gmt learning_rate=0.001`."""
    pairs = (override.lstrip("+").split("=", 1) for override in point.varied)
    with_column = (*_WITH_OWN_COLUMN, axis.setting)
    others = [f"{key.rpartition('.')[2]}={value}" for key, value in pairs if key not in with_column]
    return " ".join([point.arm, *others])


def label_of_choice(point: Point, *, fixed: Sequence[str] = ()) -> str:
    """Return a point's label without the seed and `fixed` settings, equal for points that differ only in these."""
    varied, lists_of_one = (without(overrides, ("seed", *fixed)) for overrides in (point.varied, point.lists_of_one))
    return replace(point, varied=varied, lists_of_one=lists_of_one).label


def setting_of(override: str) -> str:
    """Return the setting that an override sets, with its `+` if it has one."""
    return override.partition("=")[0]


def without(overrides: Sequence[str], keys: Collection[str | None]) -> tuple[str, ...]:
    """Return the overrides of all settings but `keys`."""
    return tuple(text for text in overrides if setting_of(text) not in keys)


def choice_of(point: Point, config: Mapping[str, Any], axis: Axis) -> Choice:
    """Return the choice that a run belongs to, from its resolved config."""
    value = axis.value(config)
    return Choice(arm_of(point, axis), None if value is None else float(value))


def to_override_value(value: object) -> str:
    """Return a plain value in Hydra's override grammar; parsing the text gives the same value.

    Raises:
        UserError: the value has a type that a config can't hold.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in _RESERVED_WORDS and not _looks_numeric(value):
            return value
        return QuotedString(text=value, quote=Quote.single).with_quotes()
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(to_override_value, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{to_override_value(v)}" for k, v in value.items()) + "}"
    raise UserError(f"a study can't hold a value of type {type(value).__name__}: {value!r}")


def _looks_numeric(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
