"""What can break on one machine: every run ends done exactly once, with the bits of an undisturbed run."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import STUDY, Sweeps, attempts, finish, weights
from tests.processes import command_of, name_of, wait_for

pytestmark = pytest.mark.faults


def test_a_worker_that_is_killed(sweeps: Sweeps, undisturbed: dict[str, str]) -> None:
    sweep = sweeps.start(*STUDY)
    victim = sweeps.wait_for_checkpoint()
    os.kill(sweeps.records("status.json")[victim]["pid"], signal.SIGKILL)
    output = finish(sweep)
    assert "attempt 2" in output
    assert weights(sweeps) == undisturbed
    assert {id_: n for id_, n in attempts(sweeps).items() if n > 1} == {victim: 2}
    failure = sweeps.records("status.json")[victim]["failures"][0]
    assert failure["kind"] == "infrastructure"
    assert "its worker died" in failure["error"]


def test_a_driver_that_is_killed_and_another_number_of_workers(sweeps: Sweeps, undisturbed: dict[str, str]) -> None:
    first = sweeps.start(*STUDY, "hydra.launcher.num_cpus=2")
    sweeps.wait_for_checkpoint()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    sweeps.run(*STUDY, "hydra.launcher.num_cpus=1")
    assert weights(sweeps) == undisturbed
    assert max(attempts(sweeps).values()) == 2


# A terminal sends Ctrl-C to the whole group, a cluster's scheduler SIGTERM to the driver, or to all, as `timeout` does.
SENDERS: dict[str, Callable[[int], None]] = {
    "ctrl_c": lambda pid: os.killpg(pid, signal.SIGINT),
    "sigterm": lambda pid: os.kill(pid, signal.SIGTERM),
    "sigterm_to_all": lambda pid: os.killpg(pid, signal.SIGTERM),
}


@pytest.mark.parametrize("sender", SENDERS)
def test_a_signal_checkpoints_and_says_how_to_go_on(sweeps: Sweeps, undisturbed: dict[str, str], sender: str) -> None:
    sweep = sweeps.start(*STUDY)
    victim = sweeps.wait_for_checkpoint()
    SENDERS[sender](sweep.pid)
    output = finish(sweep, expect=130, timeout_s=60)
    assert "no further run starts" in output
    assert "the same command resumes" in output
    states = {status["state"] for status in sweeps.records("status.json").values()}
    assert states <= {"done", "interrupted"}
    assert "failures" not in sweeps.records("status.json")[victim]
    checkpoints = (sweeps.folder / "gmt-results/runs" / victim / "checkpoint").glob("checkpoint-*/method_state.pt")
    last = max(int(path.parent.name.rpartition("-")[2]) for path in checkpoints)
    logged = [json.loads(line)["step"] for line in _metrics(sweeps.folder, victim)]
    assert last >= max(logged), "the checkpoint is of the last step, not of an earlier one"
    sweeps.run(*STUDY)
    assert weights(sweeps) == undisturbed


def _metrics(folder: Path, run_id: str) -> list[str]:
    return (folder / "gmt-results/runs" / run_id / "metrics.jsonl").read_text().splitlines()


def test_ctrl_c_twice_stops_at_once(sweeps: Sweeps, undisturbed: dict[str, str]) -> None:
    sweep = sweeps.start(*STUDY)
    sweeps.wait_for_checkpoint()
    os.killpg(sweep.pid, signal.SIGINT)
    sweeps.wait_for(lambda: list(sweeps.folder.glob("gmt-results/studies/*/sweeps/*/stop")))
    os.killpg(sweep.pid, signal.SIGINT)
    finish(sweep, expect=130, timeout_s=30)
    sweeps.wait_for(lambda: not _of_group(sweep), timeout_s=30)
    sweeps.run(*STUDY)
    assert weights(sweeps) == undisturbed


def test_a_ray_that_is_lost_ends_the_sweep_with_a_message(sweeps: Sweeps, undisturbed: dict[str, str]) -> None:
    sweep = sweeps.start(*STUDY)
    sweeps.wait_for_checkpoint()
    next(p for p in psutil.Process(sweep.pid).children() if name_of(p) == "gcs_server").kill()
    output = finish(sweep, expect=1, timeout_s=45)
    assert "Ray, which this sweep started on this machine, has ended" in output
    assert "Sweep again to go on with it" in output
    wait_for(lambda: not _of_group(sweep), 180)
    sweeps.run(*STUDY)
    assert weights(sweeps) == undisturbed


def _of_group(process: "subprocess.Popen[str]") -> list[int]:
    return [p.pid for p in psutil.process_iter() if p.status() != "zombie" and os.getpgid(p.pid) == process.pid]


@pytest.mark.parametrize("process_name", ["gcs_server", "ray::ImplicitFunc"], ids=["ray_starts", "a_worker_waits"])
@pytest.mark.parametrize("sender", [*SENDERS, "kill"])
def test_a_signal_while_a_sweep_is_checked_leaves_nothing_behind(
    sweeps: Sweeps, sender: str, process_name: str
) -> None:
    places = Path(tempfile.gettempdir())
    before = set(places.glob("gmt-gate-*"))
    sweep = sweeps.start(*STUDY)
    sweeps.wait_for(
        lambda: [p for p in psutil.Process(sweep.pid).children(recursive=True) if process_name in command_of(p)]
    )
    if sender == "kill":
        sweep.kill()
        sweep.wait()
    else:
        SENDERS[sender](sweep.pid)
        assert "the same command resumes" in finish(sweep, expect=130, timeout_s=60)
        assert set(places.glob("gmt-gate-*")) == before
    sweeps.wait_for(lambda: not _of_group(sweep), timeout_s=180)  # Ray's agents look for a dead node each minute
    assert sweeps.records("status.json") == {}


def test_two_drivers_on_one_study(sweeps: Sweeps, undisturbed: dict[str, str]) -> None:
    drivers = [sweeps.start(*STUDY, "hydra.launcher.num_cpus=1") for _ in range(2)]
    for driver in drivers:
        assert "all 8 runs are done" in finish(driver, timeout_s=400)
    assert weights(sweeps) == undisturbed
    assert set(attempts(sweeps).values()) == {1}


def misbehaving(fault: str, *, always: bool = False) -> tuple[str, ...]:
    """A sweep over two seeds of a run that misbehaves."""
    return (
        "run",
        "-m",
        "method=sft",
        "task=tiny",
        "seed=1,2",
        *STUDY[2:],
        "method._target_=misbehaving.Misbehaving",
        f"+method.fault={fault}",
        "+method.marker=marker",
        f"+method.always={str(always).lower()}",
    )


@pytest.mark.parametrize("fault", ["kill", "disk"])
def test_a_fault_of_the_machine_is_tried_again(sweeps: Sweeps, fault: str) -> None:
    sweeps.run(*misbehaving(fault))
    assert sorted(attempts(sweeps).values()) == [1, 2]


def test_a_fault_that_stays_ends_after_three_attempts_and_costs_no_other_run(sweeps: Sweeps) -> None:
    output = sweeps.run(*misbehaving("kill", always=True), "hydra.launcher.num_cpus=1", expect=1)
    statuses = sweeps.records("status.json")
    assert [(s["state"], s["attempts"], s["error_kind"]) for s in statuses.values()] == [
        ("failed", 3, "infrastructure")
    ] * 2
    assert output.count("its worker died") >= 2


def test_a_bug_is_never_tried_again_and_its_traceback_is_kept(sweeps: Sweeps) -> None:
    output = sweeps.run(*misbehaving("bug"), expect=1)
    assert "ZeroDivisionError: a bug in a plug-in" in output
    statuses = list(sweeps.records("status.json").values())
    assert sorted((s["state"], s["attempts"]) for s in statuses) == [("done", 1), ("failed", 1)]
    error = next((sweeps.folder / "gmt-results").glob("runs/*/error.txt")).read_text()
    assert "misbehaving.py" in error


def test_a_hang_is_ended_and_tried_again(sweeps: Sweeps) -> None:
    sweeps.run(*misbehaving("hang"), "resources.stall_limit_s=30")
    assert sorted(attempts(sweeps).values()) == [1, 2]
    failures = [f for s in sweeps.records("status.json").values() for f in s.get("failures", [])]
    assert len(failures) == 1
    assert "no progress for resources.stall_limit_s" in failures[0]["error"]


@pytest.mark.skipif(psutil.virtual_memory().available < 6e9, reason="needs 6 GB of free memory")
def test_rays_memory_monitor_kills_a_worker(sweeps: Sweeps) -> None:
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + 5e9) / memory.total
    sweeps.run(
        *misbehaving("hog"),
        RAY_memory_usage_threshold=f"{threshold:.3f}",
        RAY_memory_monitor_refresh_ms="100",
    )
    assert sorted(attempts(sweeps).values())[-1] >= 2
    failures = [f for s in sweeps.records("status.json").values() for f in s.get("failures", [])]
    assert any("ran out of memory" in failure["error"] for failure in failures), failures


def test_a_gpu_that_is_too_small_gets_smaller_micro_batches_and_the_same_steps(sweeps: Sweeps) -> None:
    sweeps.run(*misbehaving("memory", always=True))
    sweeps.run(*misbehaving("memory", always=True)[:1], "method=sft", "task=tiny", "seed=1", *STUDY[2:])
    results = list(sweeps.records("result.json").values())
    small = [r for r in results if r["micro_batch_size"] == 4]
    (plain,) = [r for r in results if r["micro_batch_size"] == 16]
    assert [r["accumulation_steps"] for r in small] == [8, 8]
    assert {r["training"]["num_steps"] for r in results} == {plain["training"]["num_steps"]}
    assert {r["training"]["num_tokens"] for r in results} == {plain["training"]["num_tokens"]}
    assert set(attempts(sweeps).values()) == {1}


def may_mount() -> bool:
    """Whether this process has Linux' CAP_SYS_ADMIN, bit 21; being root in a container does not say so."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return any(int(line.split()[1], 16) >> 21 & 1 for line in lines if line.startswith("CapEff:"))


@pytest.mark.skipif(not may_mount(), reason="needs the right to mount a small disk")
def test_a_full_disk(sweeps: Sweeps, undisturbed: dict[str, str]) -> None:
    root = sweeps.folder / "gmt-results"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(root)], check=True)
    try:
        output = sweeps.run(*STUDY, expect=1, timeout_s=400)
        assert "No space left on device" in output or "os error 28" in output
        before = weights(sweeps)
        subprocess.run(["mount", "-o", "remount,size=1g", str(root)], check=True)
        sweeps.run(*STUDY)
        after = weights(sweeps)
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)
    assert before.items() <= after.items()
    assert after == undisturbed
