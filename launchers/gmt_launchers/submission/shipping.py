"""Copies this project's code and configs into a folder that is sent with a job, in the layout of its wheel.

Whole package folders are copied, not only files that git tracks, so that new files are included too. The folders hold
no results.
"""

import shutil
from importlib import import_module, metadata
from pathlib import Path

from gmt.config_dir import config_dir

PACKAGES = ("gmt", "gmt_launchers", "gmt_analysis", "hydra_plugins.gmt_hydra")
USER_CONFIG = "user_config"
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "*.pyo")


def ship(folder: Path, user_config: Path | None, *, code: bool) -> None:
    """Fill an empty folder with everything that a job needs apart from libraries.

    Args:
        folder: the folder, which will be the job's working folder and on its import path.
        user_config: the user's config folder, or None.
        code: whether to include this project's packages.
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
    _write_version(folder)


def _write_version(folder: Path) -> None:
    """Write the metadata by which `importlib.metadata` finds this project's version on the cluster."""
    distribution = metadata.distribution("gmt-lab")
    info = folder / f"gmt_lab-{distribution.version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: gmt-lab\nVersion: {distribution.version}\n", encoding="utf-8"
    )
