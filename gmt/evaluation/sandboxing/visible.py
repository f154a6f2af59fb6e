"""Lists the files of this machine that a sandbox shows: the Python in use, its packages, and their shared libraries.

A prefix such as ~/.local holds far more than Python, and a virtual environment may hold a pip.conf with a password. So
no prefix is shown as a whole, and no home folder under any of its paths.
"""

import functools
import os
import pwd
import site
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_LOADER_CACHE = "/etc/ld.so.cache"
_TIME_ZONES = "/usr/share/zoneinfo"
_PACKAGES = ("site-packages", "dist-packages")  # Debian's name
_SYSTEM_PREFIXES = ("/usr", "/usr/local")  # not homes themselves, although homes may lie below them


def fault() -> str | None:
    """Return a clause on why this Python can't be shown, with a remedy; None if it can."""
    homes = _homes()
    for prefix in _prefixes():
        if prefix not in _SYSTEM_PREFIXES and any(Path(home).is_relative_to(prefix) for home in homes):
            return (
                f"the prefix of this Python, {prefix}, is a home folder or holds one, and no home is shown to a "
                "program: use a Python that is installed in a folder of its own"
            )
    for folder in _folders():
        if any(Path(home).is_relative_to(folder) for home in homes):
            return f"Python needs {folder}, which holds a home folder, and no home is shown to a program"
    return None


@functools.cache
def arguments() -> Sequence[str]:
    """Return the arguments by which bubblewrap shows the files read-only; cached, since each program needs them."""
    return tuple(_arguments())


def _arguments() -> Iterator[str]:
    links: dict[str, str] = {}
    files = {_LOADER_CACHE, *_executables(links), *_settings(), *_shared_libraries(links)}
    folders = _folders()

    def is_within(path: str) -> bool:
        return any(path != folder and Path(path).is_relative_to(folder) for folder in folders)

    for path in (path for path in sorted(folders | files) if not is_within(path)):
        yield from parents(path)
        if path in _SYSTEM and os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        else:
            yield from ("--ro-bind-try", path, path)
    for path, target in links.items():
        if not is_within(path):
            yield from (*parents(path), "--symlink", target, path)


def parents(path: str) -> Iterator[str]:
    """Yield the arguments that make the folders above a path, so that users other than root can enter them."""
    for parent in reversed(Path(path).parents):
        if str(parent) not in ("/", "/tmp"):
            yield from ("--perms", "0755", "--dir", str(parent))


def _folders() -> set[str]:
    """Return the folders that are shown as a whole, under each of their paths."""
    paths = sysconfig.get_paths()
    folders = {os.path.dirname(os.__file__), paths["stdlib"], paths["platstdlib"]}
    user_packages = site.getusersitepackages()  # the Python in a sandbox does not read this folder
    folders |= {path for path in sys.path if os.path.basename(path) in _PACKAGES and path != user_packages}
    folders |= {path for path in sys.path if os.path.basename(path) == "lib-dynload"}
    folders = {path for path in folders if os.path.isdir(path)}
    return {*_SYSTEM, _TIME_ZONES, *folders, *map(os.path.realpath, folders)}


def _prefixes() -> set[str]:
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    return prefixes | {os.path.realpath(prefix) for prefix in prefixes}


def _homes() -> set[str]:
    """Return the home folders of the user, under each of their paths."""
    homes = {os.path.expanduser("~")}
    with suppress(KeyError):  # a user without an entry
        homes.add(pwd.getpwuid(os.getuid()).pw_dir)
    return {os.path.abspath(home) for home in homes} | {os.path.realpath(home) for home in homes}


def _executables(links: dict[str, str]) -> Iterator[str]:
    """Yield the interpreter, and add the links to it to `links`, since Python finds its library by their place."""
    path = os.path.abspath(sys.executable)
    while os.path.islink(path):
        target = os.path.join(os.path.dirname(path), os.readlink(path))
        links[path] = os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target))
        path = links[path]
    yield path


def _settings() -> Iterator[str]:
    """Yield the pyvenv.cfg files, which make a folder a virtual environment."""
    yield from (file for prefix in _prefixes() if os.path.isfile(file := os.path.join(prefix, "pyvenv.cfg")))


def _shared_libraries(links: dict[str, str]) -> Iterator[str]:
    """Yield the libraries beside Python's folder; add links to them to `links`, which cost less than mounts."""
    for prefix in _prefixes():
        for folder in {Path(prefix, "lib"), Path(prefix, sys.platlibdir)} - set(map(Path, _SYSTEM)):
            for path in folder.glob("*.so*"):
                if path.is_symlink() and path.resolve().parent == folder.resolve():
                    links[str(path)] = path.resolve().name
                elif path.is_file():
                    yield str(path)
