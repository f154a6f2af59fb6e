"""On Ray a merge waits for its parents, is made when they are done, and fails with them."""

from pathlib import Path

from gmt_launchers.held import Gate
from gmt_launchers.job_queue import Ready
from gmt_launchers.planned_runs import _Runs

from gmt.runs.attempt import Outcome
from gmt.studies.sweep import in_order
from tests.finished import finish, plan_of

ARMS = {
    "gmt": {"method": "gmt", "method.mask_ratio": [0.5, 0.9]},
    "soup": {"from": "gmt", "over": "method.mask_ratio", "merge": "soup"},
    "lines": {"from": "soup", "merge": "lines"},
}


def test_a_merge_is_begun_when_its_parents_are_done_and_fails_with_them(tmp_path: Path) -> None:
    planned = in_order(plan_of(tmp_path, ARMS, [1, 2]).runs)
    owner = _Runs([each.run for each in planned], tmp_path / "stop")
    labels = [each.point.label for each in planned]
    states = {label: owner.ready(index) for index, label in enumerate(labels)}
    assert states == {label: Ready.GO if label.startswith("gmt") else Ready.LATER for label in labels}
    for index, each in enumerate(planned):
        if each.point.arm == "gmt" and each.point.label != "gmt mask_ratio=0.9 seed=2":
            finish(each, 0.5)
            assert owner.ended(index, Outcome(state="done")) is None
    assert owner.ready(labels.index("soup seed=1")) is Ready.GO
    assert owner.ready(labels.index("soup seed=2")) is Ready.LATER
    lost = labels.index("gmt mask_ratio=0.9 seed=2")
    planned[lost].record.create(planned[lost].run.science, planned[lost].run.config)
    planned[lost].record.note_failure("failed", "error", "it broke")
    assert owner.ended(lost, Outcome(state="failed", kind="error", error="it broke")) is None
    assert owner.ready(labels.index("soup seed=2")) is Ready.NEVER
    assert owner.ready(labels.index("lines seed=2")) is Ready.NEVER
    assert owner.ready(labels.index("lines seed=1")) is Ready.LATER
    error = planned[labels.index("soup seed=2")].record.status()["error"]
    assert error.startswith("merge=soup needs the weights of run")
    assert "which is failed: it broke" in error


def test_runs_that_are_held_back_leave_no_record(tmp_path: Path) -> None:
    planned = in_order(plan_of(tmp_path, ARMS, [1]).runs)
    gate = Gate(tmp_path)
    lost, merge = planned[0], next(each for each in planned if each.point.arm == "soup")
    owner = _Runs([lost.run, merge.run], tmp_path / "stop", gate)
    assert owner.died(0, RuntimeError("it was killed")) == 5.0
    assert owner.ready(0) is Ready.GO
    assert owner.ready(1) is Ready.LATER  # of the merge's parents one is not even planned
    assert not lost.record.exists()
    assert not merge.record.exists()
    gate.open()
    owner.died(0, RuntimeError("it was killed"))
    assert owner.ready(1) is Ready.NEVER
    assert lost.record.state() == "interrupted"
    assert merge.record.state() == "failed"
