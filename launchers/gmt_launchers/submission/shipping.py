"""This project's code and settings as one folder that travels with a job, laid out as its wheel is.

Whole package folders travel, not what git tracks: a method that was written a minute ago must be there too.
Results never lie in them.
"""

import shutil
from importlib import import_module, metadata
from pathlib import Path

from gmt.composition import config_dir

PACKAGES = ("gmt", "gmt_launchers", "gmt_analysis", "hydra_plugins.gmt_hydra")
USER_CONFIG = "user_config"
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "*.pyo")


def ship(folder: Path, user_config: Path | None, *, code: bool) -> None:
    """Fills an empty folder with all that a job needs beside its libraries.

    Args:
        folder: goes on the job's import path, and is its working folder.
        user_config: the user's own config folder, or None.
        code: whether the packages travel too.
    """
    if code:
        _ship_code(folder)
    if user_config is not None:
        shutil.copytree(user_config, folder / USER_CONFIG, ignore=_LEFT_OUT)


def _ship_code(folder: Path) -> None:
    for name in PACKAGES:
        source = Path(str(import_module(name).__file__)).parent
        shutil.copytree(source, folder.joinpath(*name.split(".")), ignore=_LEFT_OUT)
    if not (folder / "gmt" / "conf").exists():
        shutil.copytree(config_dir(), folder / "gmt" / "conf")
    _name_the_version(folder)


def _name_the_version(folder: Path) -> None:
    """Lets `importlib.metadata` find the version there too."""
    distribution = metadata.distribution("gmt-lab")
    about = folder / f"gmt_lab-{distribution.version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: gmt-lab\nVersion: {distribution.version}\n", encoding="utf-8"
    )
