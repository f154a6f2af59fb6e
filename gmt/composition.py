"""Hydra at the root: where conf/ lies, how a run's config is composed, and Hydra's errors in the user's words.

A study of many runs composes once for each choice of config groups (37 ms) and sets the other values on a copy
(under 1 ms); a test holds the result against Hydra's own composition.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from gmt.errors import UserError, choices

CONFIG_NAME = "config"
VERSION_BASE = "1.3"


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


class Composer:
    """Composes the configs of many runs; one for each sweep or plan."""

    def __init__(self) -> None:
        self._by_choice: dict[tuple[str, ...], DictConfig] = {}
        self._parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """Parses override texts.

        Raises:
            UserError: a text breaks Hydra's grammar.
        """
        with user_errors():
            parsed: list[Override] = self._parser.parse_overrides(list(overrides))
            return parsed

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config for some overrides, unresolved, with the nodes of conf/ but Hydra's own.

        Raises:
            UserError: an override is wrong.
        """
        chosen: list[tuple[str, Override]] = []
        values: list[tuple[str, Override]] = []
        for text, override in zip(overrides, self.parse(overrides), strict=True):
            (values if self._is_plain_value(override) else chosen).append((text, override))
        with user_errors():
            key = tuple(text for text, _ in chosen)
            if key not in self._by_choice:
                self._by_choice[key] = compose(CONFIG_NAME, overrides=list(key))
            config = copy.deepcopy(self._by_choice[key])
            for _, override in values:
                _set(config, override)
        return config

    def compose_plain(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The resolved config for some overrides, as plain values."""
        return to_plain(self.compose(overrides))

    def _is_plain_value(self, override: Override) -> bool:
        simple = override.type == OverrideType.CHANGE and override.package is None and not override.is_sweep_override()
        loader = GlobalHydra.instance().config_loader()
        return simple and not loader.get_group_options(override.key_or_group)


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
    return {str(key): value for key, value in plain.items()}


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns the errors of Hydra and OmegaConf, which are the user's mistakes, into sentences."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error


def explain(error: HydraException | OmegaConfBaseException) -> str:
    """One sentence for an error of Hydra or OmegaConf."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, wanted = error.missing_cfg_file.rpartition("/")
        return f"there is no {group} {wanted!r}; {choices(wanted, error.options)}"
    cause = error.__cause__
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing; set it with {error.full_key}=VALUE"
    if isinstance(error, ConfigCompositionException) and isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(error, cause)
    text = str(error).strip().split("\n")
    return re.sub(r"\s+", " ", " ".join(text[:2])).strip()


def _unknown_key(error: ConfigCompositionException, cause: ConfigAttributeError | ConfigKeyError) -> str:
    key, parent = str(cause.key), cause.parent_node
    full_key = str(cause.full_key or key)
    place = full_key.rpartition(".")[0] or "the config"
    known = [str(k) for k in parent] if OmegaConf.is_dict(parent) else []
    if place == "the config" and not known:
        known = [p.name for p in config_dir().iterdir() if p.is_dir()]
    return f"{place} has no setting {key!r}; {choices(key, [k for k in known if k != 'hydra'])}"
