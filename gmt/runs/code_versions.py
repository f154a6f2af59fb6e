"""The versions of the code that executes a run: this package, plug-ins from other packages, libraries. No torch.

They are recorded beside the result and are never part of the run id. Runs of the same id by different code may have
different results, so a table that averages them says so (gmt.studies.differing).
"""

import ast
import hashlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gmt.records.identity import OPTIONAL_GROUPS, SCIENCE_GROUPS
from gmt.training.optimizers import OPTIMIZERS

OWN = "gmt"
# Libraries that train, evaluate or make examples.
LIBRARIES = (
    *("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "safetensors", "lm-eval"),
    *("reasoning-gym", "numpy"),
)
_INSTALLED = {"site-packages", "dist-packages"}
# Files of Python code, and of code that is compiled beforehand or on first use (gmt.masking's kernels.c).
_CODE = frozenset(
    {
        *(".py", ".pyx", ".pxd", ".jinja"),
        *(".c", ".cc", ".cpp", ".cxx", ".h", ".hpp", ".cu", ".cuh", ".hip", ".metal", ".ptx", ".cubin"),
        *(".so", ".pyd", ".dylib", ".dll"),
    }
)
_READ_AS_CODE = _CODE | {".yaml", ".yml", ".toml"}  # suffixes of new files that make a checkout dirty
_WITHOUT_EFFECT = frozenset({"cli.py", "commands", "studies", "tracking"})  # parts of gmt that change no run's result


def code_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions of the code that executes a config, by the code's name.

    Args:
        config: a run's config, or some of its groups; groups that decide no result are ignored.

    Returns:
        A hash of the code files of gmt, a hash of those of each other package that a `_target_` names, and the versions
        of libraries.
    """
    outside = _outside_packages(config)
    used = [*LIBRARIES, *_optimizer_library(config.get("train") or {})]
    libraries = {name: version for name in used if (version := version_of(name)) is not None}
    return {OWN: source_of(OWN), **{name: source_of(name) for name in outside}, **libraries}


def _optimizer_library(train: Mapping[str, Any]) -> list[str]:
    """Return a list with the distribution that provides the optimizer; the list is empty for torch's optimizers."""
    optimizer = OPTIMIZERS.get(train.get("optimizer", "adamw"))
    return [optimizer.distribution] if optimizer is not None and optimizer.distribution is not None else []


def outside_versions(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the version and the git checkout of each package outside of gmt that a config's plug-ins come from."""
    return {
        name: {"version": _version_of_package(name), **checkout(min(files, key=lambda file: len(file.parts)).parent)}
        for name in _outside_packages(config)
        if (files := _files(name))
    }


def _outside_packages(config: Mapping[str, Any]) -> list[str]:
    """Return the packages of a config's plug-ins outside of gmt, and of the uninstalled modules that they import.

    The names come from the config and not from the science, which names a class that has moved by its former path.
    """
    groups = {group: config.get(group) for group in (*SCIENCE_GROUPS, *OPTIONAL_GROUPS, "diagnostic")}
    packages: set[str] = set()
    pending = {target.partition(".")[0] for target in _targets(groups)} - {OWN}
    while pending:
        packages.add(name := pending.pop())
        pending |= _imported(name) - packages
    return sorted(packages)


@lru_cache(maxsize=64)
def _imported(name: str) -> frozenset[str]:
    """Return the top-level modules that a package imports from outside of site-packages."""
    names: set[str] = set()
    for path in (file for file in _files(name) if file.suffix == ".py"):
        with suppress(SyntaxError):  # no run can import such a file
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
                    names.add(node.module.partition(".")[0])
    others = names - {OWN, name, "__main__"} - sys.stdlib_module_names
    return frozenset(other for other in others if (files := _files(other)) and not _INSTALLED & set(files[0].parts))


def _targets(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "_target_" and isinstance(item, str):
                yield item
            yield from _targets(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _targets(item)


@lru_cache(maxsize=64)
def source_of(name: str) -> str:
    """Return a hash of the code files of a package or module, computed at this process's first call.

    A process goes on to run the code that it has imported, so an edit affects only processes that start later.
    """
    digest = hashlib.sha256()
    files = _files(name)
    for path in files:
        place = path.parts[len(path.parts) - path.parts[::-1].index(name) :] if name in path.parts else path.parts[-1:]
        digest.update("/".join(place).encode())
        digest.update(path.read_bytes())
    return f"sha256:{digest.hexdigest()[:16]}" if files else "unknown"


def _files(name: str) -> list[Path]:
    spec = find_spec(name)
    if spec is None:
        return []
    if spec.submodule_search_locations is None:
        return [Path(spec.origin)] if spec.origin is not None else []
    return [
        path
        for root in map(Path, spec.submodule_search_locations)
        for path in sorted(_code_files(root))
        if name != OWN or path.relative_to(root).parts[0] not in _WITHOUT_EFFECT
    ]


def _code_files(root: Path) -> Iterator[Path]:
    """Yield the code files below a folder, except those in hidden folders and in site-packages."""
    for path in root.rglob("*"):
        if path.suffix in _CODE and not any(
            part.startswith(".") or part == "site-packages" for part in path.relative_to(root).parts
        ):
            yield path


@lru_cache(maxsize=64)
def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution, None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=64)
def _version_of_package(name: str) -> str | None:
    """Return the version of the distribution that installed a package; None if no distribution did."""
    distributions = metadata.packages_distributions().get(name, [])
    return version_of(distributions[0]) if distributions else None


@lru_cache(maxsize=64)
def checkout(folder: Path) -> dict[str, Any]:
    """Return the commit of the git checkout that a folder lies in, and whether the folder has uncommitted changes."""
    commit, changes = _git(folder, "rev-parse", "HEAD"), uncommitted(folder)
    return {
        "commit": None if commit is None else commit.strip(),
        "dirty": None if commit is None or changes is None else bool(changes),
    }


def own_checkout() -> Path | None:
    """Return the root of the git checkout that this package is run from; None where it is installed."""
    root = Path(__file__).parents[2]
    return root if (root / ".git").exists() else None


def uncommitted(folder: Path) -> list[str] | None:
    """Return the uncommitted changes of a folder in a git checkout.

    Returns:
        Paths in the checkout: changed files, and new files of code or settings (_READ_AS_CODE); other new files, such
        as a log, are left out. None if the folder is in no checkout.
    """
    lines = _git(folder, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", str(folder))
    if lines is None:
        return None
    changes = [(line[:2], line[3:]) for line in lines.split("\0") if line]
    return [path for state, path in changes if state != "??" or Path(path).suffix in _READ_AS_CODE]


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, encoding="utf-8", check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def code_of_environment(environment: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the versions of code in environment.json; for older records, which lack them, the commit of gmt."""
    code: Mapping[str, str] | None = environment.get("code")
    if code is not None:
        return code
    return {OWN: f"commit {str(environment['commit'])[:12]}"} if environment.get("commit") else {}


def combined_versions(earlier: Mapping[str, str], current: Mapping[str, str]) -> dict[str, str]:
    """Return the code of a run from the code of its earlier attempts and of its current one.

    Where they differ, the value lists them in order, e.g. `{"mine": "sha256:1, then sha256:2"}`.
    """
    shared = {
        name: value if value.rpartition(", then ")[2] == current[name] else f"{value}, then {current[name]}"
        for name, value in earlier.items()
        if name in current
    }
    return {**earlier, **current, **shared}
