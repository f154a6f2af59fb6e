"""Compares the versions of Python, Ray and this project, which must be equal here and on a cluster."""

import json
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib import metadata

from gmt.errors import UserError

_PRINT_VERSIONS = (
    "import json, platform; from importlib import metadata as m; d = {x.metadata['Name']: x.version for x in "
    "m.distributions()}; print(json.dumps({'Python': platform.python_version(), 'Ray': d.get('ray'), "
    "'gmt-lab': d.get('gmt-lab')}))"
)


def own_versions() -> dict[str, str]:
    """Return the versions of this environment."""
    return {
        "Python": platform.python_version(),
        "Ray": metadata.version("ray"),
        "gmt-lab": metadata.version("gmt-lab"),
    }


def print_command(python: str) -> str:
    """Return a shell command that prints a cluster's versions as JSON; it runs on any Python 3.8+."""
    return f"{python} -c {shlex.quote(_PRINT_VERSIONS)}"


def printed_versions(output: str) -> dict[str, str | None] | None:
    """Return the versions that `print_command` printed among other lines; None if it printed none."""
    lines = [line for line in output.splitlines() if line.startswith('{"Python"')]
    versions: dict[str, str | None] | None = json.loads(lines[-1]) if lines else None
    return versions


def compare_command(python: str) -> str:
    """Return a shell command that compares the versions where it runs, and prints a sentence for each difference."""
    own = " ".join(f"{name}={version}" for name, version in own_versions().items())
    return f"{python} -m gmt_launchers.submission.versions {own}"


def require_same(place: str, versions: Mapping[str, str | None]) -> None:
    """Compare a cluster's versions with those of this environment.

    Args:
        place: the cluster in words, for error messages.
        versions: the cluster's versions by name; None for a package that is not installed. Only these names are
            compared.

    Raises:
        UserError: a sentence for each difference. For Python only the major and minor version must be equal.
    """
    faults = _differences(place, own_versions(), versions)
    if faults:
        raise UserError(*faults)


def _differences(place: str, wanted: Mapping[str, str], versions: Mapping[str, str | None]) -> list[str]:
    return [
        f"{place} must have {name} {wanted[name]} as the machine that submits, got {version or 'none'}"
        for name, version in versions.items()
        if _compared_part(name, version) != _compared_part(name, wanted[name])
    ]


def _compared_part(name: str, version: str | None) -> str | None:
    return ".".join(version.split(".")[:2]) if name == "Python" and version else version


if __name__ == "__main__":
    wanted = dict(argument.split("=", 1) for argument in sys.argv[1:])
    sys.exit("\n".join(f"error: {fault}" for fault in _differences("this environment", wanted, own_versions())) or None)
