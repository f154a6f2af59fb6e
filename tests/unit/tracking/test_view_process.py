"""A process of its own writes the same to MLflow, and its death, its caller's death and a lost answer lose nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient

from gmt.errors import NoAnswer, UserError
from gmt.studies.plan import Plan
from gmt.tracking.mirror import Mirror, MirroredRun, OpenStore
from gmt.tracking.settings import TrackingSettings
from gmt.tracking.view_process import StoreFault, ViewInOtherProcess
from tests.finished import finish, plan_of
from tests.mlflow_server import assert_level
from tests.processes import free_ports, wait_for

pytestmark = pytest.mark.heavy
CALLER = """
import sys
from gmt.tracking.settings import TrackingSettings
from gmt.tracking.view_process import ViewInOtherProcess

view = ViewInOtherProcess(TrackingSettings(uri=sys.argv[1], artifacts=None, experiment="e"))
view.wait_until_open()
print(view._process.pid, flush=True)
sys.stdin.readline()
"""


def settings_for(folder: Path) -> TrackingSettings:
    return TrackingSettings(uri=f"sqlite:///{folder}/m.db", artifacts=str(folder / "artifacts"), experiment="e")


def finished_plan(folder: Path) -> Plan:
    plan = plan_of(folder / "root", {"sft": {"method": "sft"}}, [1, 2])
    for number, planned in enumerate(plan.runs):
        finish(planned, number / 2)
    return plan


def process_of(view: ViewInOtherProcess) -> psutil.Process:
    return psutil.Process(view._process.pid)


def test_runs_are_mirrored_completely_by_another_process(tmp_path: Path) -> None:
    plan, before, lines = finished_plan(tmp_path), psutil.Process().children(), list[str]()
    with ViewInOtherProcess(settings_for(tmp_path)) as view:
        view.wait_until_open()
        assert len(psutil.Process().children()) == len(before) + 1
        with Mirror(lambda: OpenStore(view=view), lines.append, "gmt sync") as mirror:
            for planned in plan.runs:
                mirror.note_change(MirroredRun(record=planned.record, name="a", tags={}), final=True)
    assert psutil.Process().children() == before
    assert_level(f"sqlite:///{tmp_path}/m.db", "e", [planned.record for planned in plan.runs])
    assert lines == []


def test_a_store_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    nowhere = TrackingSettings(uri=f"http://127.0.0.1:{port}", artifacts=None, experiment="e")
    refusal = r"tracking\.uri must be a store that answers, got http.*refused"
    with ViewInOtherProcess(nowhere) as view, pytest.raises(NoAnswer, match=refusal):
        view.wait_until_open()


def test_a_wrong_setting_is_refused_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    wrong = TrackingSettings(uri=f"sqlite:///{tmp_path}/file/m.db", artifacts=None, experiment="e")
    with ViewInOtherProcess(wrong) as view, pytest.raises(UserError, match="must be in a folder that can be made"):
        view.wait_until_open()


def test_modules_in_the_current_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "gmt", "mlflow"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    with ViewInOtherProcess(settings_for(tmp_path)) as view:
        view.wait_until_open()
        assert view.answers()


def test_a_process_that_was_killed_is_started_again(tmp_path: Path) -> None:
    (planned, other) = finished_plan(tmp_path).runs
    with ViewInOtherProcess(settings_for(tmp_path)) as view:
        assert view.sync(planned.record, name="a", parent=None, tags={}, final=True)
        process_of(view).suspend()  # so it dies during the next call
        threading.Timer(1, process_of(view).kill).start()
        with pytest.raises(NoAnswer, match="the process that writes to MLflow has ended"):
            view.wait_until_open()
        assert view.answers()
        for run in (planned, other):
            assert view.sync(run.record, name="a", parent=None, tags={}, final=True)
        view.close()
    assert_level(f"sqlite:///{tmp_path}/m.db", "e", [planned.record, other.record])


def test_a_request_that_the_store_refuses_is_a_fault_and_the_store_still_answers(tmp_path: Path) -> None:
    planned = finished_plan(tmp_path).runs[0]
    with ViewInOtherProcess(settings_for(tmp_path)) as view:
        view.wait_until_open()
        MlflowClient(f"sqlite:///{tmp_path}/m.db").delete_experiment("1")
        with pytest.raises(StoreFault, match="must be in the 'active' state"):
            view.sync(planned.record, name="a", parent=None, tags={}, final=True)
        assert view.answers()


def test_the_answer_to_an_interrupted_call_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    with ViewInOtherProcess(settings_for(tmp_path)) as view:
        view._pipe.send((-1, "no_method", (), {}))  # Ctrl-C came before its answer, which is an error
        assert view.answers()


def test_the_process_ends_soon_after_its_caller_even_during_a_call() -> None:
    ours, theirs = Pipe()
    code = f"import threading, time; from gmt.tracking.view_process import _end_after_hang_up as end; \
        threading.Thread(target=end, args=({theirs.fileno()},), daemon=True).start(); time.sleep(600)"
    with theirs:
        process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()])
    time.sleep(1)
    assert process.poll() is None
    ours.close()
    assert process.wait(60) == 0


def test_an_ended_view_starts_no_process(tmp_path: Path) -> None:
    with ViewInOtherProcess(settings_for(tmp_path)) as view:
        view.wait_until_open()
    before = psutil.Process().children()
    assert not view.answers()
    assert psutil.Process().children() == before


def test_signals_for_the_caller_do_not_end_the_process_and_the_death_of_the_caller_does(tmp_path: Path) -> None:
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, f"sqlite:///{tmp_path}/m.db"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert caller.stdout is not None
    writer = psutil.Process(int(caller.stdout.readline()))
    assert caller.pid in [parent.pid for parent in writer.parents()]
    psutil.Process(caller.pid).suspend()  # so that only the signal, and not the caller's end, could end the writer
    os.killpg(caller.pid, signal.SIGINT)
    writer.terminate()  # as Slurm signals all processes of a job
    time.sleep(1)
    assert writer.is_running()
    caller.kill()
    caller.wait()
    wait_for(lambda: not writer.is_running() or writer.status() == psutil.STATUS_ZOMBIE, 60)
