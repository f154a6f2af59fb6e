"""Writes the first files of a plug-in from templates. Imports no library."""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from string import Template

from gmt import settings
from gmt.errors import UserError

KINDS = tuple(sorted(path.name for path in Path(__file__).parent.iterdir() if (path / "config.txt").exists()))
# The paths of the files in a user's own folder, and in this repository, whose packages have plural names.
_USER_PATHS = {"code": "{name}.py", "config": "{kind}/{name}.yaml", "test": "test_{name}.py"}
_REPOSITORY_PATHS = {
    "code": "gmt/{kinds}/{name}.py",
    "config": "conf/{kind}/{name}.yaml",
    "test": "tests/unit/{kinds}/test_{name}.py",
}
_PLURALS = {"study": "studies"}


@dataclass(frozen=True, kw_only=True)
class FirstFiles:
    """The first files of a plug-in.

    Args:
        files: the written files, in reading order.
        commands: the commands that come next, for a shell in the current folder.
    """

    files: Sequence[Path]
    commands: Sequence[str]


def write_first_files(kind: str, name: str, folder: Path) -> FirstFiles:
    """Write the first files of a plug-in.

    Args:
        kind: one of KINDS.
        name: the plug-in's name in configs, and the name of its module.
        folder: a config folder of the user's own, or a checkout of this repository.

    Raises:
        UserError: the kind is unknown, the name can't name a module or is taken, or a file exists already.
    """
    settings.one_of("KIND", kind, KINDS)
    _check_name(name)
    is_repository = (folder / "conf" / kind).is_dir() and (folder / "gmt" / "checks").is_dir()
    templates = {path.stem: path.read_text(encoding="utf-8") for path in (Path(__file__).parent / kind).glob("*.txt")}
    places = {
        file: folder / place.format(kind=kind, kinds=_PLURALS.get(kind, f"{kind}s"), name=name)
        for file, place in (_REPOSITORY_PATHS if is_repository else _USER_PATHS).items()
        if file in templates
    }
    has_code = "code" in templates and not is_repository
    if has_code and find_spec(name) is not None:
        raise UserError(f"NAME must not be the name of a module that Python finds already, got {name!r}")
    if taken := [str(path) for path in places.values() if path.exists()]:
        raise UserError(
            f"gmt new overwrites no file, and {', '.join(taken)} exist already: choose another name, or remove "
            f"{'it' if len(taken) == 1 else 'them'}"
        )
    words = {
        "name": name,
        "class_name": "".join(part.capitalize() for part in name.split("_")),
        "module": f"gmt.{kind}s.{name}" if is_repository else name,
        "config_dir": "None" if is_repository else "str(Path(__file__).parent)",
    }
    for file, path in places.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(templates[file]).substitute(words), encoding="utf-8")
    invalidate_caches()  # find_spec has cached that the module does not exist
    commands = _commands(kind, name, folder, places["test"], is_repository, has_code)
    return FirstFiles(files=list(places.values()), commands=commands)


def _check_name(name: str) -> None:
    if not name.isidentifier() or name != name.lower() or not name.isascii() or keyword.iskeyword(name):
        raise UserError(f"NAME must consist of a-z, 0-9 and _, and begin with a letter, got {name!r}")
    settings.folder_name("NAME", name)


def _commands(kind: str, name: str, folder: Path, test: Path, is_repository: bool, has_code: bool) -> list[str]:
    path = f"PYTHONPATH={folder} " if has_code else ""
    place = "" if is_repository else f" --config-dir {folder}"
    command = {"study": "gmt sweep", "diagnostic": "gmt diagnose study=quickstart"}.get(kind, "gmt run")
    before = ["gmt run"] if kind == "merge" else []  # a merge needs a finished run
    last = f"{path}{command} {kind}={name}{place}"
    return [f"{path}gmt check {kind}={name}{place}", f"{path}python -m pytest {test}", *before, last]
