"""A run that a search stopped early is marked, however its worker ends."""

import threading
from pathlib import Path

from gmt_launchers.planned_runs import _Runs

from tests.finished import plan_of


def test_a_run_is_marked_after_ray_has_ended_its_worker(tmp_path: Path) -> None:
    run = plan_of(tmp_path, {"sft": {"method": "sft"}}, [1]).runs[0].run
    run.record.create(run.science, run.config)
    run.record.set_status("running")
    works, ends = threading.Event(), threading.Event()

    def worker() -> None:
        with run.record.at_work():
            works.set()
            ends.wait(60)

    thread = threading.Thread(target=worker)
    thread.start()
    assert works.wait(60)
    threading.Timer(0.3, ends.set).start()  # after the sweep has begun to look
    owner = _Runs([run], tmp_path / "stop")
    owner.given_up(0)
    owner.mark_given_up()
    thread.join()
    assert run.record.state() == "stopped"
