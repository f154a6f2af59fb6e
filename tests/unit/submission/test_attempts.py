import pytest
from gmt_launchers.submission.attempts import next_id, sweep_of

from gmt.cluster import JobState, SweepJob
from gmt.errors import UserError

JOB = SweepJob(name="gmt-tiny-abc", overrides=(), config_dir=None, record_root="/results", gpus_needed=0, gpus_used=1)


def state(id_: str, *, active: bool = False) -> JobState:
    return JobState(id=id_, name=sweep_of(id_), state="RUNNING" if active else "FAILED", active=active, note="")


def test_no_id_is_used_twice() -> None:
    assert next_id(JOB, []) == "gmt-tiny-abc-1"
    known = [state("gmt-tiny-abc-1"), state("gmt-tiny-abc-10"), state("gmt-tiny-abcd-50"), state("gmt-tiny-abc-x")]
    assert next_id(JOB, known) == "gmt-tiny-abc-11"


def test_a_sweep_under_way_is_refused_and_other_sweeps_dont_count() -> None:
    assert next_id(JOB, [state("gmt-other-abc-1", active=True)]) == "gmt-tiny-abc-1"
    with pytest.raises(UserError, match=r"under way as job gmt-tiny-abc-2 \(RUNNING\)"):
        next_id(JOB, [state("gmt-tiny-abc-1"), state("gmt-tiny-abc-2", active=True)])
