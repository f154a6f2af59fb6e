"""Hydra at the root: where conf/ lies, how a run's config is composed, and Hydra's errors in the user's words.

A study of many runs composes once for each kind of run and sets its values on a copy; tests hold the result against
Hydra's own composition.
"""

import copy
import re
import shlex
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString, ValueType
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    GrammarParseError,
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from yaml import YAMLError

from gmt.errors import UserError, choices
from gmt.tasks.inherited import settled

CONFIG_NAME = "config"
VERSION_BASE = "1.3"
_READERS = frozenset({"antlr4", "hydra", "omegaconf", "yaml"})
_GROUP_OF_NO_NAME = "Config group override must be"  # Hydra's ValueError


def config_dir() -> Path:
    """The folder conf/: inside the package where it was installed, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


@contextmanager
def hydra_on(extra_config_dir: str | None) -> Iterator[None]:
    """Makes `compose_run` work outside a Hydra app.

    Args:
        extra_config_dir: a folder of the user's own that is searched before conf/, or None.

    Raises:
        UserError: the folder doesn't exist.
    """
    search_path = create_config_search_path(f"file://{config_dir()}")
    if extra_config_dir is not None:
        folder = Path(extra_config_dir).resolve()
        if not folder.is_dir():
            raise UserError(f"--config-dir must be a folder, got {extra_config_dir!r}")
        # As Hydra's own --config-dir does it, for which the public API has no counterpart.
        before = SearchPathQuery(provider="schema")
        search_path.prepend(provider="command-line", path=f"file://{folder}", anchor=before)
    version.setbase(VERSION_BASE)
    Hydra.create_main_hydra2(task_name="gmt", config_search_path=search_path)
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def extra_config_dir() -> str | None:
    """The folder of the user's own that --config-dir named, or None; within Hydra."""
    path = GlobalHydra.instance().config_loader().get_search_path().get_path()
    found = (each.path for each in path if each.provider == "command-line" and each.path is not None)
    return next((each.removeprefix("file://") for each in found), None)


class Composer:
    """Composes the configs of many runs; one for each sweep or plan.

    Hydra composes once for each choice of groups and each set of keys that vary (40 ms); the values of a run are then
    set on a copy (some microseconds). The first run of each kind is composed both ways: where they differ, as where an
    interpolation reads what varies, every run of the kind is left to Hydra.
    """

    def __init__(self) -> None:
        self._by_choice: dict[tuple[str, ...], DictConfig] = {}
        self._templates: dict[tuple[tuple[str, ...], tuple[str, ...]], _Template] = {}
        self._read_by_interpolations: dict[tuple[str, ...], set[str]] = {}
        self._parsed: dict[str, Override] = {}
        self._is_group: dict[str, bool] = {}
        self._parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """Parses override texts.

        Raises:
            UserError: a text breaks Hydra's grammar.
        """
        for text in overrides:
            if text not in self._parsed:
                self._parsed[text] = parse_override(self._parser, text)
        return [self._parsed[text] for text in overrides]

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config for some overrides, unresolved, with the nodes of conf/ but Hydra's own.

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
        """The resolved config for some overrides, as plain values; parts that runs share are not to be changed.

        Raises:
            UserError: an override is wrong.
        """
        chosen, values = self._split(overrides)
        read = self._interpolated(chosen)
        fixed = (*chosen, *(text for text in values if read & set(self._parsed[text].key_or_group.split("."))))
        varied = {self._parsed[t].key_or_group: self._parsed[t].value() for t in values if t not in fixed}
        kind = (fixed, tuple(varied))
        if kind not in self._templates:
            self._templates[kind] = self._template(fixed, overrides, varied)
        template = self._templates[kind]
        if isinstance(template, UserError):
            raise template
        return to_plain(self.compose(overrides)) if template is None else _settled(_with_values(template, varied))

    def _split(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What only Hydra can compose, and plain values of single keys."""
        parsed = self.parse(overrides)
        plain = {text for text, override in zip(overrides, parsed, strict=True) if self._is_plain_value(override)}
        return tuple(t for t in overrides if t not in plain), tuple(t for t in overrides if t in plain)

    def _composed(self, chosen: tuple[str, ...]) -> DictConfig:
        if chosen not in self._by_choice:
            with user_errors():
                self._by_choice[chosen] = compose(CONFIG_NAME, overrides=list(chosen))
        return self._by_choice[chosen]

    def _interpolated(self, chosen: tuple[str, ...]) -> set[str]:
        """Every word that stands in an interpolation of the config: what it reads is named by its last word."""
        if chosen not in self._read_by_interpolations:
            raw = OmegaConf.to_container(self._composed(chosen), resolve=False)
            self._read_by_interpolations[chosen] = {
                word for text in _texts(raw) if "${" in text for word in re.findall(r"\w+", text)
            }
        return self._read_by_interpolations[chosen]

    def _template(self, fixed: Sequence[str], overrides: Sequence[str], varied: Mapping[str, Any]) -> "_Template":
        try:
            by_hydra = to_plain(self.compose(overrides))
        except UserError as error:
            return error
        try:
            template = to_plain(self.compose(fixed))
        except UserError:
            return None  # without the values something is missing
        # repr, since NaN does not equal itself
        return template if repr(_settled(_with_values(template, varied))) == repr(by_hydra) else None

    def _is_plain_value(self, override: Override) -> bool:
        if override.type != OverrideType.CHANGE or override.package is not None or override.is_sweep_override():
            return False
        key = override.key_or_group
        if key not in self._is_group:
            loader = GlobalHydra.instance().config_loader()
            self._is_group[key] = bool(loader.get_group_options(key))
        value = override.value()
        scalar = value is None or isinstance(value, bool | int | float | str)
        return scalar and not self._is_group[key] and "${" not in str(value)


# A resolved config, None where values can't be set on a copy, or the error that composing raised.
_Template = dict[str, Any] | UserError | None


def _with_values(template: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A config with some values set; shares with the template what lies beside their paths."""
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
    """Sets one value as Hydra would: the key must exist."""
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
    """A resolved config as plain dicts, lists and values.

    Raises:
        UserError: a value is missing or an interpolation leads nowhere.
    """
    ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    with user_errors():
        plain = OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return _settled({str(key): value for key, value in plain.items()})


def _settled(plain: dict[str, Any]) -> dict[str, Any]:
    """A config whose task has no dropped entry."""
    task = settled(plain.get("task"))
    return plain if task is plain.get("task") else {**plain, "task": task}


def parse_override(parser: OverridesParser, text: str) -> Override:
    """Parses one override.

    Raises:
        UserError: Hydra's grammar does not take it, or drops blanks at an end of its value; says how it is written.
    """
    key, equals, value = text.partition("=")
    if not equals and not text.startswith("~"):
        raise UserError(f"an override must be KEY=VALUE or ~KEY, got {text!r}")
    try:
        (parsed,) = parser.parse_overrides([text])
        is_whole = (
            parsed.value_type != ValueType.ELEMENT or not isinstance(parsed.value(), str) or value == value.strip(" \t")
        )
    except (HydraException, ValueError, RecursionError) as error:
        quoted = f"{key}={as_text(value)}"
        try:
            parser.parse_overrides([quoted])
        except HydraException:
            raise UserError(f"an override must be KEY=VALUE with a setting's name as KEY, got {text!r}") from error
        raise UserError(f"Hydra can't read {text!r}; write the text as {shlex.quote(quoted)}") from error
    if not is_whole:
        quoted = f"{key}={as_text(value)}"
        raise UserError(f"Hydra drops blanks at the ends of {text!r}; write the text as {shlex.quote(quoted)}")
    return parsed


def as_text(value: str) -> str:
    """A text in Hydra's override grammar such that it arrives letter by letter."""
    plain = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", value)  # no interpolation
    return QuotedString(text=plain, quote=Quote.double).with_quotes()


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns the errors of Hydra and OmegaConf, which are the user's mistakes, into sentences."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error
    except (YAMLError, ValueError, RecursionError) as error:
        if str(error).startswith(_GROUP_OF_NO_NAME):
            sentence = "a config group must be set to the name of one of its files, and left out by ~GROUP"
            raise UserError(sentence) from error
        if not _is_of_reading(error):
            raise
        raise UserError(_unreadable(error)) from error


def _is_of_reading(error: BaseException) -> bool:
    """Return whether Hydra or a library below it raised an error, and not what it calls."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    innermost = 50 if isinstance(error, RecursionError) else 5  # a reader may end in Python's own library
    modules = (str(frame.f_globals.get("__name__")) for frame in frames[-innermost:])
    return any(module.partition(".")[0] in _READERS for module in modules)


def _unreadable(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "a config must not be nested so deep that Python can't read it, nor name itself, directly or by others"
    if isinstance(error, UnicodeDecodeError):
        return f"a config must be UTF-8 text ({error})"
    return f"a config can't be read: {' '.join(str(error).split())}"


def explain(error: HydraException | OmegaConfBaseException) -> str:
    """One sentence for an error of Hydra or OmegaConf."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, wanted = error.missing_cfg_file.rpartition("/")
        return f"there is no {group} {wanted!r}; {choices(wanted, error.options)}"
    cause = error.__cause__
    if not str(error).strip() and isinstance(cause, OmegaConfBaseException):
        return explain(cause)
    if isinstance(error, InterpolationKeyError | GrammarParseError):
        return f"{_first_lines(error)}; a text that holds ${{ is written with \\${{"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing; set it with {error.full_key}=VALUE"
    if isinstance(error, ConfigCompositionException) and isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(error, cause)
    lines = str(error).strip().split("\n")
    if lines[0].startswith("Ambiguous value"):
        return (
            f"{lines[0]}: write a text with commas as KEY=\\'A,B\\', a list as KEY=[A,B]; several runs need --multirun"
        )
    return _first_lines(error)


def _first_lines(error: Exception) -> str:
    return re.sub(r"\s+", " ", " ".join(str(error).strip().split("\n")[:2])).strip() or type(error).__name__


def _unknown_key(error: ConfigCompositionException, cause: ConfigAttributeError | ConfigKeyError) -> str:
    key, parent = str(cause.key), cause.parent_node
    full_key = str(cause.full_key or key)
    place = full_key.rpartition(".")[0] or "the config"
    known = [str(k) for k in parent] if OmegaConf.is_dict(parent) else []
    if place == "the config" and not known:
        known = [p.name for p in config_dir().iterdir() if p.is_dir()]
    return f"{place} has no setting {key!r}; {choices(key, [k for k in known if k != 'hydra'])}"
