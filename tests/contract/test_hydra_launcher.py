"""`hydra/launcher=ray_tune` passes the suites by which Hydra tests every launcher. One Ray serves all of it."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite
from hydra.version import VersionBase, __compat_version__
from hydra_plugins.gmt_hydra.ray_tune_launcher import RayTuneLauncher

from tests.ray_nodes import Nodes

pytestmark = pytest.mark.slow
Plugins.instance()


@pytest.fixture(scope="module", autouse=True)
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster of one node, joined by every sweep instead of started by each."""
    nodes = Nodes(tmp_path_factory.mktemp("nodes"), head_cpus=2)
    os.environ["GMT_TEST_RAY"] = nodes.address
    yield
    del os.environ["GMT_TEST_RAY"]
    nodes.end()


@pytest.fixture(autouse=True)
def _version_base_of_the_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suites expect Hydra 1.1's working directories; what other tests of this process composed asked for 1.3."""
    monkeypatch.setattr(VersionBase.instance(), "version_base", __compat_version__)


JOIN = "hydra.launcher.address=${oc.env:GMT_TEST_RAY}"


def test_hydra_finds_it() -> None:
    assert RayTuneLauncher.__name__ in {x.__name__ for x in Plugins.instance().discover(Launcher)}


@pytest.mark.parametrize(("launcher_name", "overrides"), [("ray_tune", [JOIN])])
class TestRayTuneLauncher(LauncherTestSuite):
    """Hydra's suite for a launcher in the process of the test."""


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [({}, ["-m", "hydra/launcher=ray_tune", JOIN])],
)
class TestRayTuneLauncherIntegration(IntegrationTestSuite):
    """Hydra's suite of apps started as a user does."""


def test_an_app_of_somebody_else_runs_on_a_ray_of_its_own(tmp_path: object) -> None:
    app = (
        "import hydra, os\n"
        "@hydra.main(version_base='1.3', config_path=None)\n"
        "def app(config):\n"
        "    print(config.x, flush=True)\n"
        "    open(f'out-{config.x}', 'w').close()\n"
        "app()\n"
    )
    command = [sys.executable, "-c", app, "-m", "+x=1,2", "hydra/launcher=ray_tune", "hydra.sweep.dir=."]
    done = subprocess.run(command, cwd=str(tmp_path), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert {name for _, _, files in os.walk(str(tmp_path)) for name in files} >= {"out-1", "out-2"}
