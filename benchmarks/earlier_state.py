"""Names another checkout of this repository, with which a benchmark compares, and makes Python import from it."""

import argparse
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path


def add_before(parser: argparse.ArgumentParser) -> None:
    """Add the option `--before`."""
    parser.add_argument("--before", type=Path, help="another checkout of this repository, to compare with")


def check_before(parser: argparse.ArgumentParser, ways: Sequence[str], before: Path | None) -> None:
    """End the script with a message if the way `before` is to be measured without another checkout."""
    if "before" in ways and before is None:
        parser.error("the way 'before' needs --before with another checkout of this repository")


def import_path(checkout: Path) -> dict[str, str]:
    """Return the environment variable with which Python imports our packages from a checkout."""
    return {"PYTHONPATH": os.pathsep.join(str(checkout.resolve() / name) for name in ("", "launchers", "analysis"))}


def commit_sentence(checkout: Path) -> str:
    """Return a sentence that names the commit of a checkout, and the files that differ from it."""
    commit = _git(checkout, "rev-parse", "--short", "HEAD").strip()
    changed = _git(checkout, "diff", "--name-only", "HEAD").split()
    with_changes = f" with changes of {', '.join(changed)}" if changed else ""
    return f"The earlier state is commit {commit}{with_changes}."


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
