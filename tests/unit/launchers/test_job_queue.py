"""The queue hands out each job until its owner wants no repetition: it loses no job, and starts no running job."""

from pathlib import Path

import hypothesis.strategies as st
import pytest
from gmt_launchers import job_queue
from gmt_launchers.held import Gate, HeldJobs
from gmt_launchers.job_queue import Job, JobQueue, Ready
from hypothesis import given
from ray.tune.search import Searcher

JOB = Job(work=lambda report_score: None, cpus=1, gpus=0, memory_bytes=None)


class Script:
    """An owner with a script for each job: its attempts return, raise, are stopped early, or are not ready yet."""

    def __init__(self, attempts: list[list[str]]):
        self.remaining = [list(steps) for steps in attempts]
        self.endings: list[str] = [""] * len(attempts)
        self.running: set[int] = set()
        self.stop = False

    def ready(self, index: int) -> Ready:
        assert index not in self.running
        if self.remaining[index][0] == "later":
            self.remaining[index].pop(0)
            return Ready.LATER
        if self.remaining[index][0] == "never":
            self.endings[index] = "never"
            return Ready.NEVER
        self.running.add(index)
        return Ready.GO

    def _next(self, index: int, ending: str) -> float | None:
        self.running.discard(index)
        self.remaining[index].pop(0)
        self.endings[index] = "" if self.remaining[index] else ending
        return 0.0 if self.remaining[index] else None

    def handle_result(self, index: int, result: object) -> float | None:
        return self._next(index, "ended")

    def handle_death(self, index: int, error: Exception) -> float | None:
        return self._next(index, "died")

    def note_early_stop(self, index: int) -> None:
        self.running.discard(index)
        self.endings[index] = "stopped early"

    def is_stopped(self) -> bool:
        return self.stop

    def is_working(self) -> bool:
        return False


LAST = st.sampled_from(["return", "raise", "stop early", "never"])
STEPS = st.lists(st.sampled_from(["return", "raise", "later"]), max_size=4)


@given(st.lists(st.tuples(STEPS, LAST), max_size=6), st.integers(1, 3), st.randoms(use_true_random=False))
def test_every_job_reaches_the_end_of_its_script(scripts: list, max_parallel: int, random: object) -> None:
    before, job_queue._ASK_AGAIN_S = job_queue._ASK_AGAIN_S, 0.0
    try:
        owner = Script([[*steps, last] for steps, last in scripts])
        queue = JobQueue([JOB] * len(scripts), owner, max_parallel)
        running: dict[str, int] = {}
        for number in range(10_000):
            trial = f"t{number}"
            config = queue.suggest(trial)
            if config == Searcher.FINISHED:
                break
            if config is not None:
                running[trial] = 0
            assert len(running) <= max_parallel
            if running and (config is None or random.random() < 0.5):  # type: ignore[attr-defined]
                ended = next(iter(running))
                del running[ended]
                _end(queue, owner, ended)
        assert config == Searcher.FINISHED
        assert all(owner.endings)
    finally:
        job_queue._ASK_AGAIN_S = before


def _end(queue: JobQueue, owner: Script, trial: str) -> None:
    step = owner.remaining[queue._running[trial]][0]
    if step == "return":
        queue.handle_result(trial, None)
        queue.on_trial_complete(trial)  # Tune calls this also for a trial that has reported its result
    elif step == "raise":
        queue.handle_error(trial, RuntimeError("x"))
    else:
        queue.on_trial_complete(trial)


def test_no_job_starts_after_a_stop() -> None:
    owner = Script([["return"], ["return"]])
    queue = JobQueue([JOB, JOB], owner, None)
    assert queue.suggest("a") is not None
    owner.stop = True
    assert queue.suggest("b") is None
    queue.handle_result("a", None)
    assert queue.suggest("c") == Searcher.FINISHED
    assert owner.endings == ["ended", ""]


def test_a_job_that_waits_for_other_processes_has_not_begun() -> None:
    begun: list[bool] = []
    job = Job(work=lambda report_score: None, cpus=0, gpus=0, memory_bytes=None, has_begun=lambda: bool(begun))
    queue = JobQueue([job], Script([["return"]]), None)
    assert not queue.is_starting(), "there is no job to do yet"
    queue.suggest("a")
    assert queue.is_starting(), "no worker has the job"
    queue.note_start("a")
    assert queue.is_starting(), "the job's worker waits for other workers"
    begun.append(True)
    assert not queue.is_starting()


def test_at_most_num_waiting_jobs_get_workers_while_the_gate_is_closed(tmp_path: Path) -> None:
    held = HeldJobs(gate=Gate(tmp_path), num_waiting=2)
    queue = JobQueue([JOB] * 4, Script([["return"]] * 4), held=held)
    assert queue.suggest("a") is not None
    assert not held.are_handed_out.is_set()
    assert queue.suggest("b") is not None
    assert held.are_handed_out.is_set()
    assert queue.suggest("c") is None
    held.gate.let_jobs_begin()
    assert [queue.suggest(trial) is not None for trial in "cde"] == [True, True, False]


def test_a_queue_with_no_job_ready_counts_as_handed_out(tmp_path: Path) -> None:
    held = HeldJobs(gate=Gate(tmp_path), num_waiting=2)
    queue = JobQueue([JOB], Script([["later", "return"]]), held=held)
    assert queue.suggest("a") is None
    assert held.are_handed_out.is_set()


def test_jobs_count_as_handed_out_once_a_worker_has_one_and_the_others_lack_room(tmp_path: Path) -> None:
    held = HeldJobs(gate=Gate(tmp_path), num_waiting=3)
    queue = JobQueue([JOB] * 3, Script([["return"]] * 3), held=held)
    queue.suggest("a")  # Tune does not ask again while a job waits for room
    assert not held.are_handed_out.is_set()
    queue.note_start("a")
    assert held.are_handed_out.is_set()


def test_no_more_jobs_wait_at_the_gate_than_have_room(tmp_path: Path) -> None:
    held = HeldJobs(gate=Gate(tmp_path), num_waiting=3)
    assert [held.at_most(number).num_waiting for number in (1, 3, 5)] == [1, 3, 3]
    held.at_most(1).are_handed_out.set()
    assert held.are_handed_out.is_set(), "the driver waits for this event"


def test_held_jobs_do_not_exceed_the_limit_of_parallel_jobs(tmp_path: Path) -> None:
    held = HeldJobs(gate=Gate(tmp_path), num_waiting=3)
    queue = JobQueue([JOB] * 3, Script([["return"]] * 3), 1, held)
    assert [queue.suggest(trial) is not None for trial in "ab"] == [True, False]
    assert held.are_handed_out.is_set()


def test_another_held_job_gets_a_worker_once_the_driver_waits(tmp_path: Path) -> None:
    held = HeldJobs(gate=Gate(tmp_path), num_waiting=1)
    queue = JobQueue([JOB] * 3, Script([["return"]] * 3), held=held)
    assert [queue.suggest(trial) is not None for trial in "ab"] == [True, False]
    held.driver_waits.set()
    assert [queue.suggest(trial) is not None for trial in "bc"] == [True, False]
    assert not held.no_check.done()


@pytest.mark.parametrize("end", ["result", "death", "early stop"])
def test_the_driver_checks_the_runs_if_a_worker_ends_before_they_may_begin(tmp_path: Path, end: str) -> None:
    held = HeldJobs(gate=Gate(tmp_path), num_waiting=1)
    queue = JobQueue([JOB], Script([["return"] * 2]), held=held)
    queue.suggest("a")
    assert not held.no_check.done()
    if end == "result":
        queue.handle_result("a", None)
    elif end == "death":
        queue.handle_error("a", RuntimeError("it was killed"))
    else:
        queue.on_trial_complete("a")
    assert held.no_check.done()


def test_the_driver_checks_the_runs_if_no_job_can_be_handed_out(tmp_path: Path) -> None:
    held = HeldJobs(gate=Gate(tmp_path), num_waiting=1)
    JobQueue([JOB], Script([["later", "return"]]), held=held).suggest("a")
    assert held.no_check.done()
