"""Config groups whose values all come from one file, so that another choice in the group only exchanges the file.

Hydra needs about 90 ms for a composition, and 4 ms for a file. So a study of many methods composes only once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override, OverrideType
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

_OURS = "main"  # Hydra's name for the folder of the primary config


class WholeFiles:
    """The files that Hydra would put into a config unchanged."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, str], DictConfig | None] = {}

    def chosen(self, override: Override) -> tuple[str, str] | None:
        """Return group and name of an override that chooses such a file; None for any other override."""
        choice = _choice(override)
        if choice is None:
            return None
        if choice not in self._files:
            self._files[choice] = _whole_file(*choice)
        return None if self._files[choice] is None else choice

    def are_in(self, config: DictConfig, choices: Mapping[str, str]) -> bool:
        """Return whether the values of these groups of a config are exactly those of their files.

        Args:
            config: a config that Hydra composed.
            choices: the chosen name of each group.
        """
        return all(_plain(config[group]) == _plain(self._files[group, name]) for group, name in choices.items())

    def exchanged(self, config: DictConfig, choices: Mapping[str, str]) -> DictConfig:
        """Return a copy of a config with other choices of groups for which `are_in` holds."""
        exchanged = copy.deepcopy(config)
        for group, name in choices.items():
            exchanged[group] = self._files[group, name]
        return exchanged


def keeps_to_its_group(override: Override) -> bool:
    """Return whether an override chooses a file of this package's conf/, none of which sets values of other groups.

    The user's files may set such values (`# @package _global_`), and so may an override with a package.
    """
    choice = _choice(override)
    file = None if choice is None else _file(*choice)
    return file is not None and file.provider == _OURS


def _choice(override: Override) -> tuple[str, str] | None:
    """Return group and name of an override that may choose a file; None for any other override."""
    name = override.value()
    if override.type != OverrideType.CHANGE or override.package is not None or not isinstance(name, str):
        return None
    return override.key_or_group, name


def _whole_file(group: str, name: str) -> DictConfig | None:
    """Return the config of a file; None if there is no such file, or it has defaults or a package of its own."""
    if "/" in group:  # the file's values are at a deeper place of the config, or are Hydra's own
        return None
    file = _file(group, name)
    if file is None or file.defaults_list or file.header["package"] is not None:
        return None
    config: Any = file.config
    return config if isinstance(config, DictConfig) else None


def _file(group: str, name: str) -> ConfigResult | None:
    repository = GlobalHydra.instance().config_loader().repository  # type: ignore[attr-defined]
    file: ConfigResult | None = repository.load_config(f"{group}/{name}") if repository.group_exists(group) else None
    return file


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=False) if OmegaConf.is_config(config) else config
