"""The queue hands out each job until its owner is content: no job is lost, none is begun while it runs."""

from pathlib import Path

import hypothesis.strategies as st
from gmt_launchers import job_queue
from gmt_launchers.held import Gate, Held
from gmt_launchers.job_queue import Job, JobQueue, Ready
from hypothesis import given
from ray.tune.search import Searcher

JOB = Job(work=lambda go_on: None, cpus=1, gpus=0, memory_bytes=None)


class Script:
    """An owner whose jobs end as scripted: an attempt returns, raises, is given up, or is not ready yet."""

    def __init__(self, attempts: list[list[str]]):
        self.left = [list(steps) for steps in attempts]
        self.over: list[str] = [""] * len(attempts)
        self.running: set[int] = set()
        self.stop = False

    def ready(self, index: int) -> Ready:
        assert index not in self.running
        if self.left[index][0] == "later":
            self.left[index].pop(0)
            return Ready.LATER
        if self.left[index][0] == "never":
            self.over[index] = "never"
            return Ready.NEVER
        self.running.add(index)
        return Ready.GO

    def _next(self, index: int, how: str) -> float | None:
        self.running.discard(index)
        self.left[index].pop(0)
        self.over[index] = "" if self.left[index] else how
        return 0.0 if self.left[index] else None

    def ended(self, index: int, result: object) -> float | None:
        return self._next(index, "ended")

    def died(self, index: int, error: Exception) -> float | None:
        return self._next(index, "died")

    def given_up(self, index: int) -> None:
        self.running.discard(index)
        self.over[index] = "given up"

    def stopped(self) -> bool:
        return self.stop


LAST = st.sampled_from(["return", "raise", "give up", "never"])
STEPS = st.lists(st.sampled_from(["return", "raise", "later"]), max_size=4)


@given(st.lists(st.tuples(STEPS, LAST), max_size=6), st.integers(1, 3), st.randoms(use_true_random=False))
def test_every_job_comes_to_the_end_of_its_script(scripts: list, at_once: int, random: object) -> None:
    before, job_queue._LATER_S = job_queue._LATER_S, 0.0
    try:
        owner = Script([[*steps, last] for steps, last in scripts])
        queue = JobQueue([JOB] * len(scripts), owner, at_once)
        running: dict[str, int] = {}
        for number in range(10_000):
            trial = f"t{number}"
            asked = queue.suggest(trial)
            if asked == Searcher.FINISHED:
                break
            if asked is not None:
                running[trial] = 0
            assert len(running) <= at_once
            if running and (asked is None or random.random() < 0.5):  # type: ignore[attr-defined]
                ending = next(iter(running))
                del running[ending]
                _end(queue, owner, ending)
        assert asked == Searcher.FINISHED
        assert all(owner.over)
    finally:
        job_queue._LATER_S = before


def _end(queue: JobQueue, owner: Script, trial: str) -> None:
    how = owner.left[queue._running[trial]][0]
    if how == "return":
        queue.returned(trial, None)
        queue.on_trial_complete(trial)  # Tune tells of the end of a trial that has reported its result too
    elif how == "raise":
        queue.failed(trial, RuntimeError("x"))
    else:
        queue.on_trial_complete(trial)


def test_nothing_is_started_after_a_stop() -> None:
    owner = Script([["return"], ["return"]])
    queue = JobQueue([JOB, JOB], owner, None)
    assert queue.suggest("a") is not None
    owner.stop = True
    assert queue.suggest("b") is None
    queue.returned("a", None)
    assert queue.suggest("c") == Searcher.FINISHED
    assert owner.over == ["ended", ""]


def test_a_job_that_waits_for_other_processes_has_not_begun() -> None:
    begun: list[bool] = []
    job = Job(work=lambda go_on: None, cpus=0, gpus=0, memory_bytes=None, has_begun=lambda: bool(begun))
    queue = JobQueue([job], Script([["return"]]), None)
    assert not queue.is_starting(), "there is no job to do yet"
    queue.suggest("a")
    assert queue.is_starting(), "no worker has it"
    queue.started("a")
    assert queue.is_starting(), "its worker waits for others"
    begun.append(True)
    assert not queue.is_starting()


def test_only_a_few_jobs_get_workers_while_they_are_held_back(tmp_path: Path) -> None:
    held = Held(gate=Gate(tmp_path), num_waiting=2)
    queue = JobQueue([JOB] * 4, Script([["return"]] * 4), held=held)
    assert queue.suggest("a") is not None
    assert not held.handed_out.is_set()
    assert queue.suggest("b") is not None
    assert held.handed_out.is_set()
    assert queue.suggest("c") is None
    held.gate.open()
    assert [queue.suggest(trial) is not None for trial in "cde"] == [True, True, False]


def test_a_queue_without_a_job_to_hand_out_says_so(tmp_path: Path) -> None:
    held = Held(gate=Gate(tmp_path), num_waiting=2)
    queue = JobQueue([JOB], Script([["later", "return"]]), held=held)
    assert queue.suggest("a") is None
    assert held.handed_out.is_set()


def test_a_held_job_is_counted_within_the_most_at_a_time(tmp_path: Path) -> None:
    held = Held(gate=Gate(tmp_path), num_waiting=3)
    queue = JobQueue([JOB] * 3, Script([["return"]] * 3), 1, held)
    assert [queue.suggest(trial) is not None for trial in "ab"] == [True, False]
    assert held.handed_out.is_set()
