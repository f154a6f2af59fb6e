"""Explains a setting by its meaning in a docstring, and its rule in the check that refuses a wrong value."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gmt.docstrings import arguments_of, first_sentence
from gmt.errors import UserError
from gmt.plug_ins import class_of, faults_of

# The settings dataclass of each group whose yaml names none by `_target_`.
SETTINGS_CLASSES = {
    "record": "gmt.runs.settings.RecordSettings",
    "resources": "gmt.runs.settings.ResourceSettings",
    "sweep": "gmt.studies.guard.SweepSettings",
    "train": "gmt.training.settings.TrainSettings",
    "tracking": "gmt.tracking.settings.TrackingSettings",
    "study": "gmt.studies.grid.StudySettings",
    "study.tuning": "gmt.studies.tuning.TuningSettings",
    "study.primary.NAME": "gmt.verdicts.question.Question",
}
LAUNCHER = "hydra.launcher"
_LAUNCHER_CLASS = "gmt_launchers.hydra_settings.RayTuneSettings"
MISSING = "???"  # OmegaConf's word for a value that must be given
_WRONG = "?"  # a value that no setting with choices allows
_LONGEST_VALUE = 60
_NONE = re.compile(r"\bNone\b")  # Python's word for yaml's null
_REFERENCE = re.compile(r"see (gmt[\w.]*\.[A-Z]\w*)\.?")
_RULE = re.compile(rf"(must .*), got '{re.escape(_WRONG)}'")
_ONE_OF = re.compile(r"must be one of (.*)")
_ONE_OF_FEW = re.compile(r"must be ((?:[\w-]+, )*[\w-]+ or [\w-]+)")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting of a class.

    Args:
        key: as the user writes it, e.g. `method.mask_ratio`.
        value: as the user writes it; None for a mapping.
        about: the meaning, a paragraph.
        rule: the rule that the class states for the value, e.g. `must lie in [0, 1)`; empty if it states none.
        is_in_config: whether the config names the setting, so that KEY=VALUE changes it; otherwise +KEY=VALUE adds it.
    """

    key: str
    value: str | None
    about: str
    rule: str
    is_in_config: bool

    @property
    def choices(self) -> Sequence[str]:
        """The allowed values, if the class allows a few words only; else empty."""
        if (listed := _ONE_OF.fullmatch(self.rule)) is not None:
            return listed[1].split(", ")
        few = _ONE_OF_FEW.fullmatch(self.rule)
        return () if few is None else re.split(", | or ", few[1])

    @property
    def assignment(self) -> str:
        """The override that sets the setting; without the value if that is longer than 60 letters."""
        key = self.key if self.is_in_config else f"+{self.key}"
        return key if self.value is None or len(self.value) > _LONGEST_VALUE else f"{key}={self.value}"

    @property
    def in_short(self) -> str:
        """The first sentence of the meaning, and the choices if the sentence does not name them."""
        sentence = first_sentence(self.about)
        if not self.choices or self._has_rule(sentence):
            return sentence
        return f"{sentence.rstrip('.;:')}. One of {', '.join(self.choices)}."

    @property
    def in_full(self) -> str:
        """The whole meaning, and the rule if the meaning does not say it."""
        return self.about if self._has_rule(self.about) else f"{self.about} It {self.rule}.".lstrip()

    def _has_rule(self, text: str) -> bool:
        """Return whether a text already says the rule: all choices, or the interval."""
        if self.choices:
            is_named = all(re.search(rf"\b{re.escape(choice)}\b", text) for choice in self.choices)
            return is_named or set(self.choices) == {"true", "false"}
        return re.sub("^must (be|lie) ", "", self.rule) in text


def settings_in(group: str, values: Mapping[str, Any]) -> list[Setting]:
    """Return the settings of a group: those in its config, then the others of its class, both in the class's order.

    Args:
        group: the config key, e.g. `method`.
        values: the group's config, whose values may be interpolations or missing; empty for the settings of any config.

    Raises:
        UserError: the group's class can't be imported.
    """
    settings_class = settings_class_of(group, values)
    own = [key for key in values if key != "_target_"]
    names = [] if settings_class is None else list(_defaults(settings_class))
    in_order = sorted(own, key=[*names, *own].index) + [name for name in names if name not in own]
    return [setting_in(group, values, key) for key in in_order]


def setting_in(group: str, values: Mapping[str, Any], key: str) -> Setting:
    """Return a setting of a group; see `settings_in`.

    Args:
        group: the config key.
        values: the group's config.
        key: the setting's name in the group.

    Raises:
        UserError: the group's class can't be imported.
    """
    settings_class = settings_class_of(group, values)
    own = {name: value for name, value in values.items() if name != "_target_"}
    default = MISSING if settings_class is None else _defaults(settings_class).get(key)
    value = own.get(key, default)
    return Setting(
        key=f"{group}.{key}",
        value=typed(value) if own or value != MISSING else None,
        about="" if settings_class is None else meanings(settings_class).get(key, ""),
        rule="" if settings_class is None else _rule(group, settings_class, own, key),
        is_in_config=key in own or not own,
    )


def settings_class_of(group: str, values: Mapping[str, Any]) -> type | None:
    """Return the settings dataclass of a group's config; None if it has none.

    Raises:
        UserError: the class can't be imported.
    """
    target = values.get("_target_") or SETTINGS_CLASSES.get(group)
    return class_of(group, target) if isinstance(target, str) else None


@cache
def meanings(settings_class: type) -> dict[str, str]:
    """Return the meaning of each setting, by the docstrings of a settings dataclass and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(settings_class.__mro__):
        texts |= arguments_of(base.__doc__)
    for name, text in texts.items():
        if (reference := _REFERENCE.fullmatch(text)) is not None:
            texts[name] = arguments_of(class_of(name, reference[1]).__doc__).get(name, text)
    return {name: _for_users(text) for name, text in texts.items()}


def _for_users(text: str) -> str:
    """Return a docstring's text with null in place of None, and `gmt help TOPIC` in place of a class it explains."""
    for topic, path in SETTINGS_CLASSES.items():
        text = text.replace(f"see {path}", f"see `gmt help {topic}`")
    return _NONE.sub("null", text)


def launcher_meanings() -> dict[str, str]:
    """Return the meaning of each setting of the launcher; its docstring is parsed, since an import would import Ray."""
    module, _, name = _LAUNCHER_CLASS.rpartition(".")
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    (launcher,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return {name: _for_users(text) for name, text in arguments_of(ast.get_docstring(launcher)).items()}


@cache
def _defaults(settings_class: Any) -> dict[str, Any]:
    """Return the default of each setting of a class; `???` for a setting that must be given."""
    defaults: dict[str, Any] = {}
    for field in dataclasses.fields(settings_class):
        if field.init and field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
        elif field.init:
            defaults[field.name] = MISSING if field.default is dataclasses.MISSING else field.default
    return defaults


def _rule(group: str, settings_class: type, values: Mapping[str, Any], key: str) -> str:
    """Return the rule in the error by which a class refuses a wrong value; empty if the class accepts the value."""
    from gmt.runs.build import settings_of  # not at the top: it imports every protocol, and completion must be fast

    if isinstance(values.get(key), Mapping):
        return ""
    try:
        with faults_of(group, settings_class, "refuses its settings"):  # code of a plug-in may raise anything
            settings_of(group, settings_class, {**values, key: _WRONG})
    except UserError as error:
        beginnings = (f"{group}.{key} ", f"{key} ")
        sentences = [sentence for sentence in error.sentences if sentence.startswith(beginnings)]
        rules = (_RULE.search(sentence) for sentence in sentences)
        return next((rule[1] for rule in rules if rule), "")
    return ""


def typed(value: object) -> str | None:
    """Return a value as a user types it; None for a mapping."""
    if isinstance(value, Mapping):
        return None
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(typed(item) or '{...}' for item in value)}]"
    return str(value).replace("\n", "\\n")
