"""Compares the versions of Python, Ray and this project, which must be equal here and on a cluster."""

import json
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata

from gmt.errors import UserError

_ASK = (
    "import json, platform; from importlib import metadata as m; d = {x.metadata['Name']: x.version for x in "
    "m.distributions()}; print(json.dumps({'Python': platform.python_version(), 'Ray': d.get('ray'), "
    "'gmt-lab': d.get('gmt-lab')}))"
)


def here() -> dict[str, str]:
    """Return the versions of this environment."""
    return {
        "Python": platform.python_version(),
        "Ray": metadata.version("ray"),
        "gmt-lab": metadata.version("gmt-lab"),
    }


def question(python: str) -> str:
    """Return a shell command that prints a cluster's versions as JSON; it runs on any Python 3.8+."""
    return f"{python} -c {shlex.quote(_ASK)}"


def answer(output: str) -> dict[str, str | None] | None:
    """Return the versions that the command of `question` printed among other lines; None if it printed none."""
    lines = [line for line in output.splitlines() if line.startswith('{"Python"')]
    found: dict[str, str | None] | None = json.loads(lines[-1]) if lines else None
    return found


def demand(python: str) -> str:
    """Return a shell command that compares the versions where it runs, and prints a sentence for each difference."""
    ours = " ".join(f"{name}={version}" for name, version in here().items())
    return f"{python} -m gmt_launchers.submission.versions {ours}"


def require_same(place: str, there: Mapping[str, str | None]) -> None:
    """Compare a cluster's versions with those of this environment.

    Args:
        place: the cluster in words, for error messages.
        there: the cluster's versions by name; None for a package that is not installed. Absent names are not compared.

    Raises:
        UserError: a sentence for each difference. For Python only the major and minor version must be equal.
    """
    faults = _differences(place, here(), there)
    if faults:
        raise UserError(*faults)


def _differences(place: str, wanted: Mapping[str, str], there: Mapping[str, str | None]) -> list[str]:
    return [
        f"{place} must have {name} {wanted[name]} as the machine that submits, got {version or 'none'}"
        for name, version in there.items()
        if _compared(name, version) != _compared(name, wanted[name])
    ]


def _compared(name: str, version: str | None) -> str | None:
    return ".".join(version.split(".")[:2]) if name == "Python" and version else version


if __name__ == "__main__":
    asked = dict(argument.split("=", 1) for argument in sys.argv[1:])
    sys.exit("\n".join(f"error: {fault}" for fault in _differences("this environment", asked, here())) or None)
