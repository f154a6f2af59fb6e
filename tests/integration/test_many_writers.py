"""32 processes write at once, each the records of its own runs, to sqlite and to a server on PostgreSQL."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from gmt.records.record import RunRecord
from tests.finished import finish, plan_of
from tests.mlflow_server import Server, assert_level
from tests.processes import free_ports, wait_for

pytestmark = pytest.mark.slow
NUM_WRITERS = 32
POSTGRESQL = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").exists() else []
WRITER = """
import sys
from pathlib import Path
from gmt.records.record import RunRecord
from gmt.tracking.mirror import Mirror, MirroredRun, OpenStore
from gmt.tracking.mlflow_view import MlflowView
from gmt.tracking.settings import TrackingSettings

uri, artifacts, runs, *ids = sys.argv[1:]
view = MlflowView(TrackingSettings(uri=uri, artifacts=artifacts or None, experiment="writers"))
print("ready", flush=True)
sys.stdin.readline()
with Mirror(lambda: OpenStore(view=view), lambda line: print(line, file=sys.stderr), "gmt sync") as mirror:
    for id_ in ids:
        record = RunRecord(Path(runs), id_)
        mirrored = MirroredRun(record=record, name=id_, tags={})
        record.set_status("running")
        for step in range(30):
            record.append_metrics(step, {"train/loss": 1 / (1 + step), "train/tokens": float(step)})
            with record.locked():
                mirror.note_change(mirrored, final=False)
        record.finish()
        mirror.note_change(mirrored, final=True)
"""


@pytest.fixture
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a database of PostgreSQL's, whose server ends with the test."""
    folder, bin_ = tmp_path_factory.mktemp("postgresql"), POSTGRESQL[-1]
    user = "postgres" if os.geteuid() == 0 else None  # its server refuses to run as root
    if user is not None:
        for parent in takewhile(lambda each: not each.stat().st_mode & 0o001, (folder, *folder.parents)):
            parent.chmod(0o755)
        shutil.chown(folder, user)
    (port,) = free_ports(1)
    data = folder / "data"
    made = [str(bin_ / "initdb"), "-D", str(data), "-U", "me", "--auth=trust"]
    subprocess.run(made, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)
    command = [str(bin_ / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1"]
    server = subprocess.Popen(command, user=user, cwd=folder, stderr=subprocess.DEVNULL)
    ready = [str(bin_ / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
    wait_for(lambda: subprocess.run(ready, stdout=subprocess.DEVNULL, check=False).returncode == 0, 60)
    yield f"postgresql://me@127.0.0.1:{port}/postgres"
    server.terminate()
    server.wait(30)


def write_at_once(uri: str, artifacts: str, folder: Path) -> list[RunRecord]:
    """Lets NUM_WRITERS processes begin together, each with records of its own."""
    plan = plan_of(folder / "root", {"sft": {"method": "sft"}}, list(range(NUM_WRITERS)))
    for number, each in enumerate(plan.runs):
        finish(each, number / NUM_WRITERS)
    runs = plan.runs[0].record.folder.parent
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, uri, artifacts, str(runs), each.run.id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for each in plan.runs
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    assert [writer.wait(300) for writer in writers] == [0] * NUM_WRITERS
    return [each.record for each in plan.runs]


def test_on_one_sqlite_file(tmp_path: Path) -> None:
    uri, artifacts = f"sqlite:///{tmp_path}/m.db", str(tmp_path / "artifacts")
    assert_level(uri, "writers", write_at_once(uri, artifacts, tmp_path))


@pytest.mark.skipif(not POSTGRESQL, reason="needs PostgreSQL: apt install postgresql")
def test_on_a_server_with_postgresql(tmp_path: Path, postgresql: str) -> None:
    server = Server(tmp_path, postgresql)
    server.start()
    try:
        assert_level(server.uri, "writers", write_at_once(server.uri, "", tmp_path))
    finally:
        server.kill()
