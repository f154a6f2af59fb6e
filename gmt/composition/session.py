"""A Hydra session in which configs are composed, outside a Hydra app."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra

from gmt.config_dir import config_dir
from gmt.errors import UserError

CONFIG_NAME = "config"
VERSION_BASE = "1.3"


@contextmanager
def hydra_on(extra_config_dir: str | None) -> Iterator[None]:
    """Start a Hydra session, which `Composer` needs, and end it.

    Args:
        extra_config_dir: the user's config folder, which is searched before conf/; None for none.

    Raises:
        UserError: the folder does not exist.
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
    """Return the folder that --config-dir names, or None; call it within a Hydra session."""
    entries = GlobalHydra.instance().config_loader().get_search_path().get_path()
    paths = (entry.path for entry in entries if entry.provider == "command-line" and entry.path is not None)
    return next((path.removeprefix("file://") for path in paths), None)
