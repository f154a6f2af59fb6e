"""The code that runs is the code that was asked: workers import what the driver imports, wherever one stands."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from gmt.runs.code_versions import source_of
from tests.conftest import CONF, ROOT
from tests.ray_nodes import Nodes

GMT = str(Path(sys.executable).with_name("gmt"))
MODULE = (sys.executable, "-m", "gmt")
RUN = ("run", "-m", "task=tiny", "tracking=none", "hydra.launcher.num_cpus=1", "--config-dir", str(CONF))
PLUGIN = """
from dataclasses import dataclass
from gmt.methods.sft import Sft
@dataclass(frozen=True, kw_only=True)
class Mine:
    name: str
    target_density: None = None
    def attach(self, *args, **how):
        return Sft(name="sft").attach(*args, **how)
"""
METHOD = ("~method", "+method={_target_:mine.Mine,name:mine}")


def own_folder(parent: Path) -> Path:
    """A folder with what breaks a run that imports from it: another checkout, and files named like libraries."""
    folder = parent / "own"
    shutil.copytree(ROOT / "gmt", folder / "gmt", ignore=shutil.ignore_patterns("__pycache__", "shipped"))
    (folder / "gmt" / "runs" / "execute.py").write_text("raise RuntimeError('code of the current folder ran')\n")
    for name in ("datasets", "torch", "ray", "yaml", "gmt_launchers"):
        (folder / f"{name}.py").write_text(f"raise RuntimeError('{name}.py of the current folder ran')\n")
    return folder


def plugin_in(folder: Path) -> Path:
    """A package of the user's own with a method in it."""
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "__init__.py").write_text(PLUGIN)
    return folder


def assert_runs_the_drivers_code(command: Sequence[str], folder: Path, **env: str) -> None:
    """Sweep one run on Ray, and hold the code that its worker ran against this process's."""
    done = subprocess.run(
        [*command], cwd=folder, env=os.environ | env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("gmt-results/runs/*/environment.json")
    code = json.loads(path.read_text())["code"]
    assert code["gmt"] == source_of("gmt")
    assert code["mine"].startswith("sha256:")


def test_nothing_in_the_current_folder_is_imported_and_a_package_on_pythonpath_is(tmp_path: Path) -> None:
    plugin_in(tmp_path / "plugins")
    assert_runs_the_drivers_code([GMT, *RUN, *METHOD], own_folder(tmp_path), PYTHONPATH=str(tmp_path / "plugins"))


@pytest.mark.slow
def test_nor_is_it_on_a_joined_cluster(tmp_path: Path) -> None:
    plugin_in(tmp_path / "plugins")
    folder, nodes = own_folder(tmp_path), Nodes(tmp_path, head_cpus=1)
    joined = [word for word in RUN if "num_cpus" not in word] + [f"hydra.launcher.address={nodes.address}"]
    try:
        assert_runs_the_drivers_code([GMT, *joined, *METHOD], folder, PYTHONPATH=str(tmp_path / "plugins"))
    finally:
        nodes.end()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "paths"),
    [(MODULE, {}), ([GMT], {"PYTHONPATH": "."}), ([GMT], {"PYTHONPATH": "../other:"})],
    ids=["python-m", "relative", "an-empty-entry"],
)
def test_a_package_in_the_current_folder_is_imported_where_the_driver_does(
    tmp_path: Path, command: Sequence[str], paths: dict[str, str]
) -> None:
    assert_runs_the_drivers_code([*command, *RUN, *METHOD], plugin_in(tmp_path / "own"), **paths)
