"""Finds the folder conf/."""

from pathlib import Path


def config_dir() -> Path:
    """Return the folder conf/: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"
