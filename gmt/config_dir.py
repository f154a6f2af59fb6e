"""Where conf/ lies."""

from pathlib import Path


def config_dir() -> Path:
    """The folder conf/: inside the package where it was installed, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"
