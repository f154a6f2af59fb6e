"""What a sweep shows of its runs is read from their records."""

import dataclasses
import time
from pathlib import Path

from gmt.composition import Composer, hydra_on
from gmt.studies.grid import StudySettings
from gmt.studies.make_plan import make_plan
from gmt.studies.plan import Plan, PlannedRun
from gmt.studies.watch import Ended, Snapshot, Watch
from tests.finished import RESULT


class Seen:
    """A Progress that keeps what it is shown."""

    def __init__(self) -> None:
        self.shown: list[Snapshot] = []
        self.ends: list[Ended] = []

    def show_end(self, run: Ended) -> None:
        self.ends.append(run)

    def show_snapshot(self, snapshot: Snapshot) -> None:
        self.shown.append(snapshot)

    def close(self) -> None:
        pass


def plan(root: Path) -> Plan:
    study = StudySettings(name="s", question="q", shared={"seed": [1, 2, 3]}, arms={"sft": {"method": "sft"}})
    with hydra_on(None):
        return make_plan(Composer(), study, {"record.root": [str(root)]})


def log(planned: PlannedRun, step: int, at: float) -> None:
    row = {"step": step, "time": at, "train/loss": 1.0 / step, "train/tokens": 100 * step}
    planned.record.write_lines("metrics.jsonl", [*planned.record.metrics()[0], row])


def test_counts_pace_and_time_left(tmp_path: Path) -> None:
    made, seen = plan(tmp_path), Seen()
    watch = Watch(made, made.runs, None, seen, at_once=2)
    watch.check_records()
    assert (seen.shown[-1].num_waiting, seen.shown[-1].running, seen.shown[-1].seconds_left) == (3, [], None)

    first, second, _ = made.runs
    for planned in (first, second):
        planned.record.create(planned.run.science, planned.run.config)
    first.record.write("result.json", dataclasses.replace(RESULT, seconds=60.0).to_json())
    first.record.set_status("done")
    with second.record.locked():
        second.record.set_status("running", attempts=1, started_at=1000.0)
        log(second, 2, 1001.0)
        log(second, 4, 1003.0)
        second.record.note_evaluation("sums 3 of 8")
        watch.check_records()
    (running,) = seen.shown[-1].running
    assert (running.attempt, running.step, running.loss, running.tokens_per_s) == (1, 4, 0.25, 100.0)
    assert running.evaluation == "sums 3 of 8"
    assert (seen.shown[-1].num_waiting, seen.shown[-1].ended, seen.shown[-1].seconds_left) == (1, {"done": 1}, 60.0)
    assert [end.planned for end in seen.ends] == [first]


def test_the_time_between_two_attempts_is_no_pace(tmp_path: Path) -> None:
    made, seen = plan(tmp_path), Seen()
    watch = Watch(made, made.runs, None, seen, at_once=1)
    planned = made.runs[0]
    planned.record.create(planned.run.science, planned.run.config)
    with planned.record.locked():
        planned.record.set_status("running", attempts=2, started_at=time.time())
        log(planned, 2, time.time() - 500)
        log(planned, 4, time.time() + 1)
        watch.check_records()
        assert seen.shown[-1].running[0].tokens_per_s is None
        log(planned, 6, time.time() + 3)
        watch.check_records()
        assert seen.shown[-1].running[0].tokens_per_s is not None


def test_an_interrupted_run_has_ended_only_when_the_sweep_has(tmp_path: Path) -> None:
    made, seen = plan(tmp_path), Seen()
    watch = Watch(made, made.runs, None, seen, at_once=1)
    planned = made.runs[0]
    planned.record.create(planned.run.science, planned.run.config)
    planned.record.set_status("running", attempts=1, started_at=1000.0)
    watch.check_records()
    assert not seen.ends
    watch.check_records(final=True)
    assert [end.state for end in seen.ends] == ["interrupted"]
