"""On Ray a merge waits for its parents, starts when all are done, and fails if one of them fails."""

from pathlib import Path

from gmt_launchers.held import Gate
from gmt_launchers.job_queue import Ready
from gmt_launchers.planned_runs import _RunsOwner

from gmt.runs.attempt import Outcome
from gmt.studies.sweep import in_order
from tests.finished import finish, plan_of

ARMS = {
    "gmt": {"method": "gmt", "method.mask_ratio": [0.5, 0.9]},
    "soup": {"from": "gmt", "over": "method.mask_ratio", "merge": "soup"},
    "lines": {"from": "soup", "merge": "lines"},
}


def test_a_merge_starts_when_its_parents_are_done_and_fails_if_one_fails(tmp_path: Path) -> None:
    planned = in_order(plan_of(tmp_path, ARMS, [1, 2]).runs)
    owner = _RunsOwner([run.run for run in planned], tmp_path / "stop")
    labels = [run.point.label for run in planned]
    states = {label: owner.ready(index) for index, label in enumerate(labels)}
    assert states == {label: Ready.GO if label.startswith("gmt") else Ready.LATER for label in labels}
    for index, run in enumerate(planned):
        if run.point.arm == "gmt" and run.point.label != "gmt mask_ratio=0.9 seed=2":
            finish(run, 0.5)
            assert owner.handle_result(index, Outcome(state="done")) is None
    assert owner.ready(labels.index("soup seed=1")) is Ready.GO
    assert owner.ready(labels.index("soup seed=2")) is Ready.LATER
    lost = labels.index("gmt mask_ratio=0.9 seed=2")
    planned[lost].record.create(planned[lost].run.science, planned[lost].run.config)
    planned[lost].record.note_failure("failed", "error", "it broke")
    assert owner.handle_result(lost, Outcome(state="failed", kind="error", error="it broke")) is None
    assert owner.ready(labels.index("soup seed=2")) is Ready.NEVER
    assert owner.ready(labels.index("lines seed=2")) is Ready.NEVER
    assert owner.ready(labels.index("lines seed=1")) is Ready.LATER
    error = planned[labels.index("soup seed=2")].record.status()["error"]
    assert error.startswith("merge=soup needs the weights of run")
    assert "which is failed: it broke" in error


def test_runs_that_are_held_back_leave_no_record(tmp_path: Path) -> None:
    planned = in_order(plan_of(tmp_path, ARMS, [1]).runs)
    gate = Gate(tmp_path)
    lost, merge = planned[0], next(run for run in planned if run.point.arm == "soup")
    owner = _RunsOwner([lost.run, merge.run], tmp_path / "stop", gate)
    assert owner.handle_death(0, RuntimeError("it was killed")) == 5.0
    assert owner.ready(0) is Ready.GO
    assert owner.ready(1) is Ready.LATER  # of the merge's parents one is not even planned
    assert not lost.record.exists()
    assert not merge.record.exists()
    gate.let_jobs_begin()
    owner.handle_death(0, RuntimeError("it was killed"))
    assert owner.ready(1) is Ready.NEVER
    assert lost.record.state() == "interrupted"
    assert merge.record.state() == "failed"
