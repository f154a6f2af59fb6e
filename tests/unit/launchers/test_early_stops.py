"""A run that a search stopped early ends in the state `stopped`, even if its worker could not set it."""

import threading
from pathlib import Path

from gmt_launchers.planned_runs import _RunsOwner

from tests.finished import plan_of


def test_a_run_is_marked_as_stopped_once_its_worker_has_ended(tmp_path: Path) -> None:
    run = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1]).runs[0].run
    run.record.create(run.science, run.config)
    run.record.set_status("running")
    works, ends = threading.Event(), threading.Event()

    def worker() -> None:
        with run.record.locked():
            works.set()
            ends.wait(60)

    thread = threading.Thread(target=worker)
    thread.start()
    assert works.wait(60)
    threading.Timer(0.3, ends.set).start()  # once mark_stopped_early waits for the worker
    owner = _RunsOwner([run], tmp_path / "stop")
    owner.note_early_stop(0)
    owner.mark_stopped_early()
    thread.join()
    assert run.record.state() == "stopped"
