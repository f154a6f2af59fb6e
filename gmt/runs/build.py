"""Turns a resolved plain config into checked objects and a run id. Imports no torch, so that planning is cheap."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

from gmt import settings
from gmt.errors import UserError, choices, within
from gmt.merges.protocol import Merge
from gmt.methods.protocol import Method
from gmt.models.protocol import Model
from gmt.plug_ins import check_protocol, class_of, faults_of
from gmt.records.identity import canonical, id_of_texts, run_id, science_of, text_in_ids
from gmt.records.record import RunRecord
from gmt.runs.faults_between import faults_between, faults_of_search, faults_of_selection
from gmt.runs.id_form import id_form
from gmt.runs.merge_faults import faults_of_merge, run_ids
from gmt.runs.settings import RecordSettings, ResourceSettings
from gmt.selections.protocol import HasFingerprint, Selection
from gmt.tasks.protocol import Task
from gmt.training.settings import TrainSettings

GROUPS = ("model", "task", "method", "train", "seed", "record", "resources", "tracking")
_OPTIONAL_PLUG_INS: Mapping[str, type] = {"selection": Selection, "merge": Merge}
_SWEEP_GROUPS = ("study", "search", "sweep", "diagnostic", "over")  # allowed in a run's config; diagnostic must be null
_IN_FILE_NAMES = ("diagnostic",)  # groups whose name is part of the names of files in a record
_PLUG_INS: Mapping[str, type] = {"model": Model, "task": Task, "method": Method}
_SETTINGS: Mapping[str, tuple[str, type]] = {  # name in Run -> config group, class
    "train": ("train", TrainSettings),
    "record_settings": ("record", RecordSettings),
    "resources": ("resources", ResourceSettings),
}
_Once = Callable[[str, Sequence[object], Callable[[], Any]], Any]
T = TypeVar("T")
_LARGEST_SEED = 2**32 - 1  # the largest seed of numpy's generator


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training or merge with its evaluation: checked settings, and the values that are hashed to its id."""

    config: Mapping[str, Any]
    model: Model
    task: Task
    method: Method
    train: TrainSettings
    seed: int
    record_settings: RecordSettings
    resources: ResourceSettings
    science: Mapping[str, Any]
    id: str
    selection: Selection | None = None
    merge: Merge | None = None
    parents: Sequence[str] = ()
    """Ids of the runs that a merge reads; empty if its parent is the run with the same settings without the merge."""

    @property
    def parent_ids(self) -> Sequence[str]:
        """Ids of the runs that a merge reads; empty for a run that trains."""
        if self.merge is None:
            return ()
        if self.parents:
            return self.parents
        science = {group: part for group, part in self.science.items() if group != "merge"}
        fingerprints = {group: value for group, value in science["fingerprints"].items() if group != "merge"}
        return (run_id(science | {"fingerprints": fingerprints}),)

    @property
    def record(self) -> RunRecord:
        """The run's record."""
        return RunRecord(self.record_settings.runs, self.id)

    def with_gpus(self, num_available: float) -> "Run":
        """Return the run with a number in place of resources.gpus=auto, on a machine with `num_available` GPUs."""
        config = {**self.config["resources"], "gpus": self.resources.num_gpus(num_available)}
        resources = settings_of("resources", ResourceSettings, config)
        return dataclasses.replace(self, resources=resources, config={**self.config, "resources": config})


def build(config: Mapping[str, Any]) -> Run:
    """Return the run of a resolved config, with every part built and checked.

    Raises:
        UserError: settings are wrong; it has a sentence for each of them, over all groups.
    """
    return Builder().build(config)


class Builder:
    """Builds many runs; a part that several configs share as the same object is checked and hashed once.

    The runs of a plan share the parts that are equal (gmt.composition.Composer), and nothing edits a config during
    planning.
    """

    def __init__(self) -> None:
        self._results: dict[tuple[object, ...], tuple[Sequence[object], Any]] = {}

    def build(self, config: Mapping[str, Any]) -> Run:
        """Return the run of a config; see `build`."""
        parts = _parts(config, self._once)
        fingerprints = {
            group: self._once("fingerprint", [config[group]], partial(_fingerprint, group, parts[group]))
            for group in ("model", "task")
        }
        for group in ("selection", "merge"):
            part = parts.get(group)
            if part is not None and isinstance(part, HasFingerprint):  # isinstance with a protocol is slow for None
                fingerprints[group] = _fingerprint(group, part)
        science = science_of(config, fingerprints, self._canonical)
        shared = [group for group in science if isinstance(config.get(group), Mapping)]
        texts = {
            group: self._once("text", [part], partial(text_in_ids, part)) if group in shared else text_in_ids(part)
            for group, part in science.items()
        }
        return Run(config=config, science=science, id=id_of_texts(texts), **parts)

    def _canonical(self, value: object, group: str) -> object:
        if not isinstance(value, Mapping):
            return _canonical(value, group)
        return self._once("canonical", [value], lambda: _canonical(value, group))

    def _once(self, purpose: str, values: Sequence[object], make: Callable[[], T]) -> T:
        """Return the value that `make` returns for this purpose and these objects; `make` is called only once."""
        key = (purpose, *map(id, values))
        if key not in self._results:
            self._results[key] = (values, make())  # holding the values keeps their ids from being reused
        result: T = self._results[key][1]
        return result


def _canonical(value: Any, group: str) -> object:
    settings_class = TrainSettings if group == "train" else None  # other groups name their class in `_target_`
    return canonical(id_form(group, value, settings_class) if isinstance(value, Mapping) else value, group)


def _parts(config: Mapping[str, Any], once: _Once) -> dict[str, Any]:
    known = (*GROUPS, *_OPTIONAL_PLUG_INS, "parents")
    faults: list[str] = [
        f"there is no config group or setting {key!r}; {choices(key, known)}"
        for key in config
        if key not in (*known, *_SWEEP_GROUPS)
    ]
    faults += [f"the config lacks {key!r}" for key in GROUPS if key not in config]
    if config.get("diagnostic") is not None:
        faults.append("a diagnostic is measured on finished runs, by `gmt diagnose study=NAME diagnostic=NAME`")
    if faults:
        raise UserError(*faults)
    parts: dict[str, Any] = {}
    makers: dict[str, Callable[[], object]] = {
        group: partial(once, group, [config[group]], partial(plug_in, group, config[group], protocol))
        for group, protocol in _PLUG_INS.items()
    }
    for name, (group, settings_class) in _SETTINGS.items():
        makers[name] = partial(once, group, [config[group]], partial(settings_of, group, settings_class, config[group]))
    makers["seed"] = partial(_seed, config["seed"])
    for group, protocol in _OPTIONAL_PLUG_INS.items():
        if config.get(group) is not None:
            makers[group] = partial(plug_in, group, config[group], protocol)
    if config.get("parents") is not None:
        makers["parents"] = lambda: run_ids(config["parents"])
    if config.get("search") is not None:
        makers["search"] = lambda: plug_in("search", config["search"])
    for name, make in makers.items():
        try:
            parts[name] = make()
        except UserError as error:
            faults += error.sentences
    if not faults:
        between = [parts[name] for name in ("task", "method", "train", "resources")]
        faults += once("between", between, partial(faults_between, *between))
        faults += faults_of_selection(parts.get("selection"), parts["task"])
        is_searched = "search" in parts
        if is_searched:
            faults += faults_of_search(parts.pop("search"), parts["method"], parts["record_settings"])
        paradigm, parents = parts["train"].paradigm, parts.get("parents", ())
        faults += faults_of_merge(parts.get("merge"), parents, paradigm=paradigm, is_searched=is_searched)
    if faults:
        raise UserError(*faults)
    return parts


def _fingerprint(group: str, instance: HasFingerprint) -> str:
    with faults_of(group, instance, "can't return its fingerprint"):
        text = instance.fingerprint()
    if not isinstance(text, str):
        raise UserError(f"{group}: fingerprint() must return a text, got {text!r:.80}")
    return text


def _seed(value: object) -> int:
    seed = settings.integer("seed", value, low=0)
    if seed > _LARGEST_SEED:
        raise UserError(f"seed must be at most {_LARGEST_SEED}, got {seed}")
    return seed


def plug_in(group: str, values: object, protocol: type | None = None) -> Any:
    """Return an object of the class that a group's `_target_` names, made from the group's other settings.

    Args:
        group: the config key.
        values: the group's config.
        protocol: the protocol that the object must fulfil; None if the caller checks it.

    Raises:
        UserError: the target or a setting is wrong.
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("_target_"), str):
        raise UserError(f"{group} must be a config with a _target_ that names its class, got {values!r}")
    target = class_of(group, values["_target_"])
    arguments = {key: value for key, value in values.items() if key != "_target_"}
    faults: list[str] = []
    arguments_with_parts = _with_parts(group, arguments, faults)
    if faults:
        raise UserError(*_faults_of_keys(group, target, arguments), *faults)
    with faults_of(group, target, "refuses its settings"):
        instance: Any = settings_of(group, target, arguments_with_parts)
    if protocol is not None:
        check_protocol(group, instance, protocol)
        with faults_of(group, instance, "can't return its properties"):
            for name in (name for name, member in vars(protocol).items() if isinstance(member, property)):
                getattr(instance, name)  # raises an error now instead of after the training
        check_name = settings.folder_name if group in _IN_FILE_NAMES else settings.text
        check_name(f"{group}.name", instance.name)
    return instance


def _with_parts(group: str, values: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """Build the plug-ins among a plug-in's settings, such as a task's evaluations; collect their faults."""

    def part(name: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if "_target_" not in value:
            return {key: part(f"{name}.{key}", item) for key, item in value.items()}
        try:
            with within(name):  # the class's own errors do not name its place in the config
                return plug_in(name, value)
        except UserError as error:
            faults.extend(error.sentences)
        return None

    return {key: part(f"{group}.{key}", value) for key, value in values.items()}


def settings_of(group: str, settings_class: type[T], values: object) -> T:
    """Return a settings dataclass made from a config group.

    Raises:
        UserError: the group is no mapping, has an unknown key, or lacks a key without a default; a sentence for each.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{group} must be a mapping of settings, got {values!r}")
    if faults := _faults_of_keys(group, settings_class, values):
        raise UserError(*faults)
    return settings_class(**values)


def _faults_of_keys(group: str, settings_class: type, values: Mapping[str, Any]) -> list[str]:
    fields = [field for field in dataclasses.fields(cast(Any, settings_class)) if field.init]
    known = [field.name for field in fields]
    required = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    faults = [f"{group} has no setting {key!r}; {choices(key, known)}" for key in values if key not in known]
    return faults + [f"{group}.{key} is missing" for key in required if key not in values]
