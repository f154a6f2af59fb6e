"""`gmt submit` through Slurm: real slurmctld and slurmd with two nodes, and Ray over both."""

import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import CONF, Gmt
from tests.integration.slurm_cluster import missing, slurm
from tests.processes import results_in, wait_for

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing()), reason=f"needs slurm-wlm: {', '.join(missing())} not found"),
]
STUDY = ("study=tiny", "tracking.experiment=submitted", "--config-dir", str(CONF))


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with slurm(tmp_path_factory.mktemp("slurm")) as path:
        yield path


@pytest.fixture
def on(conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("SLURM_CONF", str(conf))
    nodes = ("cluster.nodes=2", "cluster.cpus_per_node=1")
    return ("cluster=slurm", *nodes, f"cluster.private_folder={tmp_path}/private", f"cluster.folder={tmp_path}/jobs")


def submitted(gmt: Gmt, on: tuple[str, ...], *more: str) -> str:
    done = gmt("submit", *STUDY, *on, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(line.split()[-1] for line in done.stdout.splitlines() if line.startswith("submitted as"))


def states(gmt: Gmt, on: tuple[str, ...]) -> dict[str, str]:
    lines = gmt("jobs", *on).stdout.splitlines()[1:]
    return {line.split()[0]: line.split()[2] for line in lines}


def processes_with(word: str) -> list[str]:
    found = (" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    return [words for words in found if word in words]


def test_ray_comes_up_over_the_allocation_and_the_token_is_nowhere_to_be_seen(
    gmt: Gmt, on: tuple[str, ...], tmp_path: Path
) -> None:
    job = submitted(gmt, on, "seed=1")
    file = tmp_path / "private" / f"token-{job}"
    wait_for(
        lambda: bool(
            file.exists() and file.read_text() and processes_with("gmt sweep study=tiny tracking.experiment=submitted")
        ),
        120,
    )
    token = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    (rays,) = Path("/tmp").glob(f"gmt-ray-{job}-*")
    assert stat.S_IMODE(rays.stat().st_mode) == 0o700  # what Ray opens to all users lies below
    assert (rays / "ray" / "session_latest").is_symlink()
    assert processes_with(f"/tmp/gmt-ray-{job}-")  # Ray's own processes are among those that are looked at
    assert not processes_with(token)
    followed = gmt("logs", job, *on, "--follow")
    assert "study tiny: all 4 runs are done" in followed.stdout, followed.stdout
    assert states(gmt, on)[job] == "COMPLETED"
    ray_log = next((tmp_path / "jobs").glob(f"*-{job}-ray.out")).read_text()
    assert ray_log.count("Ray runtime started") == 2
    assert not file.exists()
    assert not rays.exists()
    assert not processes_with(f"/tmp/gmt-ray-{job}-")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"mlflow.db", "status.json"} <= {path.name for path in written}
    assert not [path for path in written if token.encode() in path.read_bytes()]


def test_a_job_whose_time_is_up_is_queued_again_and_goes_on(gmt: Gmt, on: tuple[str, ...], tmp_path: Path) -> None:
    job = submitted(gmt, on)
    twice = gmt("submit", *STUDY, *on)
    assert twice.returncode == 2
    assert f"the same sweep is under way as job {job}" in twice.stderr
    wait_for(lambda: len(results_in(tmp_path / "gmt-results")) >= 1, 180)
    subprocess.run(["scancel", "--batch", "--signal=INT", job], check=True)  # as Slurm does before the end
    wait_for(lambda: "queued again" in gmt("logs", job, *on).stdout, 60)
    before = results_in(tmp_path / "gmt-results")
    assert 0 < len(before) < 8
    wait_for(lambda: states(gmt, on)[job] == "PENDING", 60)
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)  # Slurm would wait two minutes
    followed = gmt("logs", job, *on, "--follow")
    assert "start 2" in followed.stdout
    assert f"study tiny: 8 runs, {len(before)} done" in followed.stdout
    assert "all 8 runs are done" in followed.stdout
    assert before.items() <= results_in(tmp_path / "gmt-results").items()


def test_a_stopped_job_leaves_nothing_running(gmt: Gmt, on: tuple[str, ...], tmp_path: Path) -> None:
    job = submitted(gmt, on, "seed=3,4")
    wait_for(lambda: len(results_in(tmp_path / "gmt-results")) >= 1, 180)
    stopped = gmt("stop", job, *on)
    assert stopped.returncode == 0, stopped.stderr
    assert states(gmt, on)[job] == "CANCELLED"
    wait_for(lambda: not processes_with(f"/tmp/gmt-ray-{job}-"), 60)
    assert "stopping: no further run starts" in gmt("logs", job, *on).stdout
    assert not list((tmp_path / "private").iterdir())
    again = gmt("stop", job, *on)
    assert again.returncode == 2
    assert f"job {job} is not under way" in again.stderr
