"""The folders that Ray's workers import from: those of the driver, in its order, and no others.

By itself Ray puts the current folder first in its workers and not in the driver, so that workers would import another
checkout's `gmt`, or the user's `datasets.py`, where the driver imports what is installed.
"""

import os
import subprocess
import sys

import ray
from ray.job_config import JobConfig


class DriverImports(JobConfig):  # type: ignore[misc]  # Ray ships no types
    """The config of a Ray job whose workers import what this process imports.

    Args:
        joined: whether the cluster's nodes were started by others. Then they have an installation of their own, which
            `gmt_launchers.node_check` compares, and only the folders come on top that this process was given beyond
            its installation: by PYTHONPATH, by `python -m` or by a script.
    """

    def __init__(self, *, joined: bool):
        paths = beyond_the_installation() if joined else driver_paths()
        super().__init__(_py_driver_sys_path=paths[::-1])  # a worker puts each before those that came earlier

    def _runtime_env_has_working_dir(self) -> bool:
        """Say that a folder of the job holds the code: only then does Ray leave the current folder out."""
        return True


def driver_paths() -> list[str]:
    """Return `sys.path` as it means the same in a process that stands in another folder."""
    return [os.path.abspath(path) for path in sys.path if isinstance(path, str)]  # Python ignores anything else


def beyond_the_installation() -> list[str]:
    """Return the folders of this process that its interpreter would not search by itself."""
    command = [sys.executable, "-E", "-P", "-X", "utf8", "-c", "import sys; print(*sys.path, sep='\\0', end='')"]
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", errors="surrogateescape", check=True)
    own = done.stdout.split("\0")
    rays_own = os.path.join(os.path.dirname(ray.__file__), "thirdparty_files")  # which it adds in every process
    return [path for path in driver_paths() if path not in (*own, rays_own)]
