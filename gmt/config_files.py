"""Reads the files of conf/ without Hydra, in milliseconds: the choices of each group, and the comments on them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmt.config_dir import config_dir

_DEFAULT = re.compile(r"  - (\w+): (\w+)(?:\s+# (.*))?")
_SCALAR = re.compile(r"(\w+): (.*?)(?:\s+# (.*))?")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The choice in a config group that conf/config.yaml makes.

    Args:
        name: the name of the chosen file; `null` for none.
        about: the comment on the group.
    """

    name: str
    about: str


def _folders(extra_dir: str | None) -> list[Path]:
    """Return the config folders in the order in which they are searched.

    Args:
        extra_dir: the user's config folder, or None.
    """
    return [*([] if extra_dir is None else [Path(extra_dir)]), config_dir()]


def groups(extra_dir: str | None = None) -> list[str]:
    """Return the names of all config groups but Hydra's own."""
    folders = {path.parent.name for folder in _folders(extra_dir) for path in folder.glob("*/*.yaml")}
    return sorted(folders - {"hydra"})


def names(group: str, extra_dir: str | None = None) -> list[str]:
    """Return the names of a group's files."""
    return sorted({path.stem for folder in _folders(extra_dir) for path in (folder / group).glob("*.yaml")})


def chosen() -> dict[str, Choice]:
    """Return the choice of each group that conf/config.yaml names, in the order of the file."""
    lines = map(_DEFAULT.fullmatch, _text(config_dir() / "config.yaml").splitlines())
    return {line[1]: Choice(name=line[2], about=line[3] or "") for line in lines if line}


def single_settings() -> dict[str, str]:
    """Return the comment in conf/config.yaml on each setting that belongs to no group; empty without a comment."""
    lines = map(_SCALAR.fullmatch, _text(config_dir() / "config.yaml").splitlines())
    return {line[1]: line[3] or "" for line in lines if line}


def own_settings() -> dict[str, Any]:
    """Return the settings in conf/config.yaml, without those of its groups."""
    import yaml

    loaded: dict[str, Any] = yaml.safe_load(_text(config_dir() / "config.yaml"))
    return {key: value for key, value in loaded.items() if key not in ("defaults", "hydra")}


def about(group: str, name: str, extra_dir: str | None = None) -> str:
    """Return the comment at the top of a group's file as one paragraph; empty without one or without the file."""
    words: list[str] = []
    for line in _text(_path(group, name, extra_dir)).splitlines():
        if not line.startswith("#"):
            break
        words.append(line.lstrip("# "))
    return " ".join(words)


def values(group: str, name: str, extra_dir: str | None = None) -> dict[str, Any]:
    """Return the settings in a group's file and in the files of the same group that it builds on.

    Interpolations and missing values stay as they are written.
    """
    import yaml

    try:
        loaded = yaml.safe_load(_text(_path(group, name, extra_dir)))
    except yaml.YAMLError:
        return {}
    if not isinstance(loaded, dict):
        return {}
    defaults = loaded.pop("defaults", [])
    merged: dict[str, Any] = {}
    for base in defaults:
        if isinstance(base, str) and base not in ("_self_", name):
            merged |= values(group, base, extra_dir)
    return merged | loaded


def _path(group: str, name: str, extra_dir: str | None) -> Path | None:
    paths = [folder / group / f"{name}.yaml" for folder in _folders(extra_dir)]
    return next((path for path in paths if path.is_file()), None)


def _text(path: Path | None) -> str:
    return "" if path is None else path.read_text(encoding="utf-8", errors="replace")
