"""The code by which a run is made: this package, plug-ins from outside of it, and the libraries. Imports no torch.

Recorded beside the result, never part of the run id: the same run by other code is one that a table must not average
without a word (gmt.studies.differing).
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
# The libraries that train, evaluate or make examples.
LIBRARIES = (
    *("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "safetensors", "lm-eval"),
    *("reasoning-gym", "numpy"),
)
_INSTALLED = {"site-packages", "dist-packages"}
_NO_RESULT = frozenset({"cli.py", "commands", "studies", "tracking"})  # of gmt: what plans, prints and follows runs


def code_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return by name what identifies the code that a part of a config is done by.

    Args:
        config: a run's config, or some of its groups; those that decide no result are passed by.

    Returns:
        A hash of the Python files of gmt and of each package outside of it that a `_target_` names, and the versions
        of libraries.
    """
    outside = _outside(config)
    used = [*LIBRARIES, *_optimizer_library(config.get("train") or {})]
    libraries = {name: version for name in used if (version := version_of(name)) is not None}
    return {OWN: source_of(OWN), **{name: source_of(name) for name in outside}, **libraries}


def _optimizer_library(train: Mapping[str, Any]) -> list[str]:
    """Return the distribution of the optimizer; none for an optimizer of torch's."""
    kind = OPTIMIZERS.get(train.get("optimizer", "adamw"))
    return [kind.distribution] if kind is not None and kind.distribution is not None else []


def outside_of(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return where the code of plug-ins from outside of gmt comes from: their packages' versions and checkouts."""
    return {
        name: {"version": _version_of_package(name), **checkout(_files(name)[0].parent)}
        for name in _outside(config)
        if _files(name)
    }


def _outside(config: Mapping[str, Any]) -> list[str]:
    """The packages of plug-ins, but ours; by the config, since a run id names a class that has moved as before.

    The modules that they import are among them, but for installed ones, which have versions.
    """
    groups = {group: config.get(group) for group in (*SCIENCE_GROUPS, *OPTIONAL_GROUPS, "diagnostic")}
    packages: set[str] = set()
    to_do = {target.partition(".")[0] for target in _targets(groups)} - {OWN}
    while to_do:
        packages.add(name := to_do.pop())
        to_do |= _imported(name) - packages
    return sorted(packages)


@lru_cache(maxsize=64)
def _imported(name: str) -> frozenset[str]:
    """Return the top-level modules that a package imports and that are not installed."""
    names: set[str] = set()
    for path in _files(name):
        with suppress(SyntaxError):  # a file that nobody imports
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
    """Return a hash of the Python files of a package or module, as they are when this process first asks.

    A process runs what it has imported: what is edited later shows in the next one.
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
    found = [path for root in spec.submodule_search_locations for path in sorted(_below(Path(root)))]
    return (
        [path for path in found if path.relative_to(found[0].parent).parts[0] not in _NO_RESULT]
        if name == OWN
        else found
    )


def _below(root: Path) -> Iterator[Path]:
    """Yield the Python files below a folder but those of hidden folders, such as a virtual environment."""
    for path in root.rglob("*.py"):
        if not any(part.startswith(".") or part == "site-packages" for part in path.relative_to(root).parts):
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
    """Return the version of the distribution that a package was installed by, None without one."""
    distributions = metadata.packages_distributions().get(name, [])
    return version_of(distributions[0]) if distributions else None


@lru_cache(maxsize=64)
def checkout(folder: Path) -> dict[str, Any]:
    """Return the commit of the git checkout that a folder lies in, and whether the folder has uncommitted changes."""
    commit = _git(folder, "rev-parse", "HEAD")
    changes = None if commit is None else _git(folder, "status", "--porcelain", "--", str(folder))
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, encoding="utf-8", check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def code_of_environment(environment: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the code that environment.json names; of a record from before it was written down, the commit."""
    code: Mapping[str, str] | None = environment.get("code")
    if code is not None:
        return code
    return {OWN: f"commit {str(environment['commit'])[:12]}"} if environment.get("commit") else {}


def by_both(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return the code of a run whose attempts were made by several, e.g. `{"mine": "sha256:1, then sha256:2"}`."""
    both = {
        name: value if value.rpartition(", then ")[2] == now[name] else f"{value}, then {now[name]}"
        for name, value in before.items()
        if name in now
    }
    return {**before, **now, **both}
