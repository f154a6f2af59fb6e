"""Hydra's compositions of the folders that no test changes, each made once in a process.

A plan and a `Composer` compose as ever: what they ask of Hydra is answered from here when it was asked before.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from gmt.composition import composer

_Key = tuple[str, tuple[str, ...], tuple[str, ...]]


@contextmanager
def compose_once(*folders: Path) -> Iterator[None]:
    """Answer a composition from an earlier one if its search path has these folders and Hydra's own only.

    Args:
        folders: their files stay the same.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composer, "compose", _remembered({f"file://{folder}" for folder in folders}))
        yield


def _remembered(constant: set[str]) -> Callable[[str, list[str]], DictConfig]:
    composed: dict[_Key, DictConfig] = {}

    def compose(name: str, overrides: list[str]) -> DictConfig:
        search_path = tuple(
            str(each.path) for each in GlobalHydra.instance().config_loader().get_search_path().get_path()
        )
        if any(path.startswith("file://") and path not in constant for path in search_path):
            return hydra.compose(name, overrides=overrides)
        key = (name, search_path, tuple(overrides))
        if key not in composed:
            composed[key] = hydra.compose(name, overrides=overrides)
        return composed[key]  # a Composer reads it and sets values on a copy

    return compose
