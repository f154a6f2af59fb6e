import subprocess
import sys
from importlib import metadata
from pathlib import Path

from gmt_launchers.submission.shipping import ship

from tests.conftest import CONF


def test_what_is_shipped_plans_the_users_study_without_the_checkout(tmp_path: Path) -> None:
    ship(tmp_path, CONF, code=True)
    assert not list(tmp_path.rglob("*.pyc"))
    (about,) = metadata.distributions(name="gmt-lab", path=[str(tmp_path)])
    assert about.version == metadata.version("gmt-lab")
    code = "import gmt, gmt_launchers; print(gmt.__file__, gmt_launchers.__file__); import gmt.cli; gmt.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", "study=tiny", "--config-dir", "user_config"],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].count(str(tmp_path)) == 2
    assert "8 to do" in done.stdout


def test_configs_travel_alone_where_the_code_is_installed(tmp_path: Path) -> None:
    ship(tmp_path, CONF, code=False)
    assert [path.name for path in tmp_path.iterdir()] == ["user_config"]
