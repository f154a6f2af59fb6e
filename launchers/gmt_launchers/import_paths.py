"""The folders that Ray's workers import from: those of the driver, in the same order, and no others.

By default Ray puts the current folder first in its workers, but not in the driver. Workers would then import the `gmt`
of another checkout, or the user's `datasets.py`, instead of the installed packages that the driver imports.
"""

import os
import subprocess
import sys
from pathlib import Path

import ray
from ray.job_config import JobConfig


class DriverImports(JobConfig):  # type: ignore[misc]  # Ray ships no types
    """The config of a Ray job whose workers import what this process imports.

    Args:
        joined: whether the cluster runs already. Its nodes then have their own installation, which
            `gmt_launchers.node_check` compares; workers additionally import from the folders that PYTHONPATH, `python
            -m` or a script gave to this process.
    """

    def __init__(self, *, joined: bool):
        paths = beyond_the_installation() if joined else driver_paths()
        super().__init__(_py_driver_sys_path=paths[::-1])  # a worker puts each before those that came earlier

    def _runtime_env_has_working_dir(self) -> bool:
        """Return True, which makes Ray leave out the current folder, as if the job brought a folder with code."""
        return True


def driver_paths() -> list[str]:
    """Return `sys.path` as absolute paths, which mean the same in a process with another current folder."""
    return [os.path.abspath(path) for path in sys.path if isinstance(path, str)]  # Python ignores anything else


def paths_beyond_new_processes() -> list[str]:
    """Return the folders of this process with modules that a new process in the same environment would not find."""
    inherited = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return [path for path in beyond_the_installation() if path not in inherited and _may_hold_modules(Path(path))]


def _may_hold_modules(path: Path) -> bool:
    if not path.is_dir():  # a zip file may hold modules
        return path.exists()
    return any(next(path.glob(pattern), None) for pattern in ("*.py", "*.pyc", "*.so", "*/__init__.*"))


def beyond_the_installation() -> list[str]:
    """Return the folders of this process that its interpreter would not search by itself."""
    command = [sys.executable, "-E", "-P", "-X", "utf8", "-c", "import sys; print(*sys.path, sep='\\0', end='')"]
    completed = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", errors="surrogateescape", check=True)
    installed = completed.stdout.split("\0")
    of_ray = os.path.join(os.path.dirname(ray.__file__), "thirdparty_files")  # Ray adds this folder in every process
    return [path for path in driver_paths() if path not in (*installed, of_ray)]
