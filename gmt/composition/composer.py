"""Composes the configs of many runs.

Runs that differ only in values share one composition by Hydra; their values are set on copies of it. Tests compare the
result with Hydra's own composition.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from gmt.composition.config_errors import user_errors
from gmt.composition.overrides import parse_override
from gmt.composition.session import CONFIG_NAME
from gmt.composition.whole_files import WholeFiles, keeps_to_its_group
from gmt.errors import UserError, choices
from gmt.tasks.inherited import without_removed_entries


class Composer:
    """Composes the configs of many runs; one object for each sweep or plan.

    Hydra composes once (90 ms) for all choices that only exchange one whole file for another
    (gmt.composition.whole_files), and once for each other combination of choices; the values of a run are then set on a
    copy (some microseconds). Runs of one kind have the same choices and the same varied keys. The first
    run of each kind is composed both by Hydra and on a copy; if the results differ, e.g. because an interpolation reads
    a varied value, Hydra composes every run of the kind. All runs of a kind share groups with equal values.
    """

    def __init__(self) -> None:
        self._by_choice: dict[tuple[str, ...], DictConfig] = {}
        self._by_groups: dict[tuple[str, ...], DictConfig] = {}
        self._resolved_by_choice: dict[tuple[str, ...], dict[str, Any]] = {}
        self._whole_files = WholeFiles()
        self._templates: dict[tuple[tuple[str, ...], tuple[str, ...]], _Template] = {}
        self._read_by_interpolations: dict[tuple[str, ...], set[str]] = {}
        self._groups: dict[tuple[object, ...], Any] = {}
        self._parsed: dict[str, Override] = {}
        self._is_plain: dict[str, bool] = {}
        self._is_group: dict[str, bool] = {}
        self._parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """Parse override texts.

        Raises:
            UserError: a text breaks Hydra's grammar.
        """
        for text in overrides:
            if text not in self._parsed:
                self._parsed[text] = parse_override(self._parser, text)
        return [self._parsed[text] for text in overrides]

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the unresolved config for some overrides, without Hydra's own node.

        Raises:
            UserError: an override is wrong.
        """
        chosen, values = self._split(overrides)
        config = copy.deepcopy(self._composed(chosen))
        with user_errors():
            for text in values:
                _set(config, self._parsed[text])
        return config

    def compose_plain(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the resolved config for some overrides, as plain values; do not change it, since runs share parts.

        Raises:
            UserError: an override is wrong.
        """
        chosen, values = self._split(overrides)
        words = self._words_in_interpolations(chosen)
        varied = {self._parsed[t].key_or_group: t for t in values if words.isdisjoint(self._path(t))}
        fixed = (*chosen, *(text for text in values if not words.isdisjoint(self._path(text))))
        kind = (fixed, tuple(varied))
        if kind not in self._templates:
            values_by_key = {key: self._parsed[text].value() for key, text in varied.items()}
            self._templates[kind] = self._template(fixed, overrides, values_by_key)
        template = self._templates[kind]
        if isinstance(template, UserError):
            raise template
        return _resolved(self.compose(overrides)) if template is None else self._filled(template, kind, varied)

    def _filled(
        self, template: Mapping[str, Any], kind: tuple[object, ...], varied: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return a template with some values set; groups with equal values are one object.

        Args:
            template: the config of the kind of run.
            kind: the kind of run.
            varied: the overrides of the varied settings by their key.
        """
        by_group: dict[str, dict[str, str]] = {}
        for key, text in varied.items():
            by_group.setdefault(key.partition(".")[0], {})[key] = text
        config = dict(template)
        for group, texts in by_group.items():
            place = (kind, *texts.values())
            if place not in self._groups:
                values = {key: self._parsed[text].value() for key, text in texts.items()}
                self._groups[place] = _settled(with_values({group: template[group]}, values))[group]
            config[group] = self._groups[place]
        return config

    def _path(self, text: str) -> list[str]:
        return self._parsed[text].key_or_group.split(".")

    def _split(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the overrides that only Hydra can compose, and those that set a plain value of a single key."""
        for text, override in zip(overrides, self.parse(overrides), strict=True):
            if text not in self._is_plain:
                self._is_plain[text] = self._is_plain_value(override)
        by_hydra = tuple(text for text in overrides if not self._is_plain[text])
        return by_hydra, tuple(text for text in overrides if self._is_plain[text])

    def _composed(self, chosen: tuple[str, ...]) -> DictConfig:
        if chosen not in self._by_choice:
            self._by_choice[chosen] = self._compose_choices(chosen)
        return self._by_choice[chosen]

    def _compose_choices(self, chosen: tuple[str, ...]) -> DictConfig:
        """Return the config for some choices: with exchanged files from an earlier composition, or from Hydra."""
        choices: dict[str, str] = {}
        words = []
        may_exchange = True
        for text in chosen:
            with user_errors():
                whole = self._whole_files.chosen(self._parsed[text])
            if whole is not None and whole[0] not in choices:
                choices[whole[0]] = whole[1]
                words.append(whole[0])
            else:
                words.append(text)
                may_exchange &= keeps_to_its_group(self._parsed[text])
        groups = tuple(words)
        if may_exchange and groups in self._by_groups:
            return self._whole_files.exchanged(self._by_groups[groups], choices)
        with user_errors():
            composed = _without_hydra(compose(CONFIG_NAME, overrides=list(chosen)))
        if may_exchange and self._whole_files.are_in(composed, choices):
            self._by_groups[groups] = composed
        return composed

    def _words_in_interpolations(self, chosen: tuple[str, ...]) -> set[str]:
        """Return every word in the interpolations of a config; a setting that one reads has such a word in its path."""
        if chosen not in self._read_by_interpolations:
            raw = OmegaConf.to_container(self._composed(chosen), resolve=False)
            self._read_by_interpolations[chosen] = {
                word for text in _texts(raw) if "${" in text for word in re.findall(r"\w+", text)
            }
        return self._read_by_interpolations[chosen]

    def _template(self, fixed: Sequence[str], overrides: Sequence[str], varied: Mapping[str, Any]) -> "_Template":
        try:
            by_hydra = self._resolved(overrides)
        except UserError as error:
            return error
        try:
            template = self._resolved(fixed)
        except UserError:
            return None  # the config is incomplete without the varied values
        # repr, since NaN does not equal itself
        return template if repr(_settled(with_values(template, varied))) == repr(by_hydra) else None

    def _resolved(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the resolved config for some overrides; if they set no value, it is resolved once and shared."""
        chosen, values = self._split(overrides)
        if values:
            return _resolved(self.compose(overrides))
        if chosen not in self._resolved_by_choice:
            self._resolved_by_choice[chosen] = _resolved(self._composed(chosen))
        return self._resolved_by_choice[chosen]

    def _is_plain_value(self, override: Override) -> bool:
        if override.type != OverrideType.CHANGE or override.package is not None or override.is_sweep_override():
            return False
        key = override.key_or_group
        if key not in self._is_group:
            loader = GlobalHydra.instance().config_loader()
            self._is_group[key] = bool(loader.get_group_options(key))
        value = override.value()
        is_scalar = value is None or isinstance(value, bool | int | float | str)
        is_ours = key.partition(".")[0] != _HYDRA
        return is_scalar and is_ours and not self._is_group[key] and "${" not in str(value)


_HYDRA = "hydra"
# A resolved config; None if values can't be set on a copy of it; or the error that composing it raised.
_Template = dict[str, Any] | UserError | None


def with_values(template: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with some values set; it shares all other parts with the template.

    Args:
        template: a resolved config.
        values: the values by their path in the config, e.g. `{"train.precision": "bf16"}`.
    """
    config = dict(template)
    for key, value in values.items():
        *parents, last = key.split(".")
        node = config
        for part in parents:
            node[part] = dict(node[part])
            node = node[part]
        node[last] = value
    return config


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _set(config: DictConfig, override: Override) -> None:
    """Set one value as Hydra would: the key must exist."""
    key = override.key_or_group
    if OmegaConf.select(config, key, throw_on_missing=False) is None:
        _require_key(config, key)
    OmegaConf.update(config, key, override.value(), merge=True)


def _require_key(config: DictConfig, key: str) -> None:
    node: Any = config
    for depth, part in enumerate(key.split(".")):
        if not OmegaConf.is_dict(node) or part not in list(node):  # `in node` denies a missing value
            known = list(node) if OmegaConf.is_dict(node) else []
            parent = ".".join(key.split(".")[:depth]) or "the config"
            raise UserError(f"{parent} has no setting {part!r}; {choices(part, map(str, known))}")
        node = node._get_node(part)


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Return a config, resolved, as plain dicts, lists and values.

    Raises:
        UserError: a value is missing, or an interpolation names a key that does not exist.
    """
    return _resolved(_without_hydra(config))


def _without_hydra(config: DictConfig) -> DictConfig:
    ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != _HYDRA])
    OmegaConf.set_struct(ours, True)
    return ours


def _resolved(config: DictConfig) -> dict[str, Any]:
    with user_errors():
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return _settled({str(key): value for key, value in plain.items()})


def _settled(plain: dict[str, Any]) -> dict[str, Any]:
    """Return the config without the entries that its task drops."""
    task = without_removed_entries(plain.get("task"))
    return plain if task is plain.get("task") else {**plain, "task": task}
