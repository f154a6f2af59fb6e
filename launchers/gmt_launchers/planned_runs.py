"""Does each run of a plan once on Ray, in reused workers, and again after failures of a kind that is tried again."""

import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from gmt.credentials import without_secrets
from gmt.records.record import State
from gmt.runs.attempt import Outcome, attempt, get_ready, outcome_of
from gmt.runs.build import Run, plug_in
from gmt.runs.failures import OF_PARENT, RETRIES, is_retried
from gmt.runs.gpus import hide_gpus
from gmt.runs.parents import failure_of, not_done
from gmt.runs.settings import AUTO, RecordSettings
from gmt.terminal import say
from gmt_launchers import early_imports
from gmt_launchers.cluster import Head, connected
from gmt_launchers.deaths import kind_of_death, note_node, num_noted_processes
from gmt_launchers.held import Check, Gate, HeldJobs
from gmt_launchers.job_queue import Job, Ready
from gmt_launchers.node_check import check_nodes
from gmt_launchers.ray_tune import run_jobs
from gmt_launchers.room import all_nodes, check_fits
from gmt_launchers.starting import StartingRuns

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

_AGAIN_AFTER_S = 5.0  # a disk or a network may need a moment
_BUSY_AFTER_S = 1.0  # another process is working on the run
_WORKER_LEAVES_S = 60.0  # a worker that Ray ends may still be writing its checkpoint
_POLL_S = 0.1

Work = Callable[[Mapping[str, Any], Path, Callable[[int, float], bool]], Outcome]


def launch_runs(
    runs: Sequence[Run],
    stop: Path,
    *,
    address: str | None,
    num_cpus: int | None,
    work: Work = attempt,
) -> None:
    """Do runs until each is done or has failed for the last time, or the stop file appears.

    Args:
        runs: the runs; none is done.
        stop: the stop file: once it exists, no run starts, and running runs end after their next step.
        address, num_cpus: see gmt_launchers.cluster.connected.
        work: the function that a worker calls with a run's config; see gmt.runs.attempt.

    Raises:
        UserError: there is no such cluster, or a run fits on none of its nodes; nothing was started.
    """
    with connected(address, num_cpus) as head:
        if address is not None:
            check_nodes(address, runs[0].record_settings.runs)
            if any(run.resources.gpus == AUTO for run in runs):
                num_gpus = _num_gpus()
                takes = "a run's worker takes one" if num_gpus else "runs compute on the CPU"
                say(f"the cluster's nodes have {num_gpus:g} GPUs now: {takes} (resources.gpus=auto)")
        owner = _do_on_cluster(head, runs, stop, work, None)
    owner.mark_stopped_early()


def start_runs(runs: Sequence[Run], stop: Path, starting: StartingRuns, *, work: Work = attempt) -> None:
    """Start the first workers of runs; they import libraries, check all runs, and wait until the runs may begin.

    Args:
        runs, stop, work: see launch_runs.
        starting: the Ray that is starting on this machine; its `finish` lets the runs begin.
    """

    def do_runs(head: Head, held: HeldJobs) -> None:
        owner = _do_on_cluster(head, runs, stop, work, held)
        if not held.must_end.is_set():
            owner.mark_stopped_early()

    starting.begin(do_runs)


def _do_on_cluster(head: Head, runs: Sequence[Run], stop: Path, work: Work, held: HeldJobs | None) -> "_RunsOwner":
    """Do runs on the connected cluster, and return the owner of their jobs."""
    num_gpus = _num_gpus()
    runs = [run.with_gpus(num_gpus) for run in runs]
    several = any(run.resources.workers > 1 for run in runs)
    gate, wait = None, None
    if held is not None:
        check = None
        if several:
            held.note_no_check("a run on several workers has no single worker for the checks")
        else:
            check = functools.partial(_faults_of, ray.put([run.config for run in runs]))
        gate, wait = held.gate, functools.partial(_wait_at_gate, held.gate, stop, check)
    jobs = [_job(run, stop, work, wait) for run in runs]
    max_parallel = check_fits([(dict(worker), number) for worker, number in {_shape(run) for run in runs}])
    if held is not None:
        held = held.at_most(max_parallel)  # Tune asks for no further job while one waits for room
    owner = _RunsOwner(runs, stop, gate)
    scheduler = _scheduler(runs[0])
    run_jobs(jobs, owner, head, max_parallel=max_parallel if several else None, scheduler=scheduler, held=held)
    return owner


def _num_gpus() -> float:
    """Return the number of GPUs of the connected cluster's nodes."""
    return sum(node.get("GPU", 0) for node in all_nodes())


def _scheduler(run: Run) -> "TrialScheduler | None":
    """Return the scheduler that stops runs early, which all runs of a sweep share; None without a search."""
    search = run.config.get("search")
    return None if search is None else plug_in("search", search).scheduler()


def _shape(run: Run) -> tuple[tuple[tuple[str, float], ...], int]:
    """Return the resources that each worker of a run reserves, and the number of its workers."""
    resources = run.resources
    memory = 0 if resources.memory_gb is None else resources.memory_gb * 1e9
    return (("CPU", float(resources.cpus)), ("GPU", float(resources.gpus)), ("memory", memory)), resources.workers


def _job(run: Run, stop: Path, work: Work, wait: Callable[[Callable[[], None]], Outcome] | None) -> Job:
    """Return the job of a run; `wait` is given the preparation of the run, and waits until the run may begin."""
    (_, cpus), (_, gpus), (_, memory) = _shape(run)[0]
    if run.resources.workers > 1:
        from gmt_launchers.ray_train import attempt_on_workers  # takes 3 s

        # Ray Train reserves what its workers need; the trial only waits for them.
        work, cpus, gpus, memory = attempt_on_workers, 0, 0, 0
    settings, work_on_run = run.record_settings, functools.partial(work, run.config, stop)
    # A process that only waits for the workers of a run has nothing to prepare.
    prepare = functools.partial(get_ready, run.config) if run.resources.workers == 1 else _do_nothing
    prepare_and_wait = None if wait is None else functools.partial(wait, prepare)
    work_in_worker = functools.partial(_do_in_worker, settings, run.record.folder, work_on_run, gpus, prepare_and_wait)
    job = Job(work=work_in_worker, cpus=cpus, gpus=gpus, memory_bytes=int(memory) or None)
    if run.resources.workers == 1:
        return job
    folder = run.record.folder
    # The first process is the trial, which waits for the workers.
    return replace(job, has_begun=lambda: num_noted_processes(folder) > 1)


def _do_in_worker(
    settings: RecordSettings,
    folder: Path,
    work_on_run: Callable[[Callable[[int, float], bool]], Outcome],
    gpus: float,
    wait: Callable[[], Outcome] | None,
    report_score: Any,
) -> Outcome:
    """Do a run in the worker, and return the outcome.

    Args:
        settings: the settings of the record.
        folder: the folder of the record, into which the worker first writes the id of its node.
        work_on_run: does the run.
        gpus: the number of GPUs that the worker reserves.
        wait: waits until the run may begin; None if it may begin at once.
        report_score: see gmt.runs.attempt.attempt.
    """

    def note_worker() -> None:
        settings.close_to_others()
        note_node(folder)

    early_imports.wait()
    if not gpus:
        hide_gpus()
    outcome = Outcome(state="done") if wait is None else wait()
    if outcome.state == "done":
        outcome = outcome_of(note_worker)
    return work_on_run(report_score) if outcome.state == "done" else outcome


def _faults_of(configs: ray.ObjectRef, note_num_checked: Callable[[int], None]) -> list[str]:
    """Check all runs in a worker, and return their faults; see gmt_launchers.held.Check."""
    from gmt.studies.preflight import faults_of_configs

    return faults_of_configs(ray.get(configs), note_num_checked)


def _do_nothing() -> None:
    """Do nothing."""


def _wait_at_gate(gate: Gate, stop: Path, check: Check | None, prepare: Callable[[], None]) -> Outcome:
    """Wait in a worker until its run may begin; return `interrupted` after a stop, else `done`.

    Args:
        gate: the gate, which opens when runs may begin.
        stop: the stop file.
        check: checks all runs; None if the driver does.
        prepare: prepares this worker's run.
    """
    gate.wait(prepare, check)
    return Outcome(state="interrupted" if stop.exists() else "done")


class _RunsOwner:
    """The owner of the runs' jobs: decides which runs start, and which are tried again.

    The owner writes no record while a gate holds the runs back.
    """

    def __init__(self, runs: Sequence[Run], stop: Path, gate: Gate | None = None):
        self._gate = gate
        self._records = [run.record for run in runs]
        self._runs, self._stop = runs, stop
        self._unfinished = {record.id for record in self._records}  # may still become done
        self._stopped_early: list[int] = []
        self._failures: Counter[tuple[int, str]] = Counter()

    def ready(self, index: int) -> Ready:
        """Return NEVER for a run that is done or can't be done, LATER for one that has to wait, else GO.

        A run that another driver is doing has to wait, since that driver may not finish it. A merge waits for its
        parents, and fails if one of them fails.
        """
        state: State = self._records[index].state()
        if state in ("done", "changed"):
            return Ready.NEVER
        unfinished_parents = not_done(self._runs[index])
        if unfinished_parents and self._are_held():
            return Ready.LATER
        if (
            lost := next((parent for parent in unfinished_parents if parent.id not in self._unfinished), None)
        ) is not None:
            self._set_ended(index)
            self._note(index, "failed", OF_PARENT, failure_of(self._runs[index], lost))
            return Ready.NEVER
        return Ready.LATER if unfinished_parents or state == "running" else Ready.GO

    def handle_result(self, index: int, result: Outcome) -> float | None:
        """Return the seconds after which to try a run again whose worker returned an outcome; None for never."""
        if result.state == "busy":
            return _BUSY_AFTER_S
        if result.state != "failed" or result.kind is None:
            self._set_ended(index)
            return None
        return self._repeat_after(index, result.kind, str(result.error))

    def handle_death(self, index: int, error: Exception) -> float | None:
        """Record the death of a run's worker; return the seconds after which to try the run again, None for never."""
        if self._are_held():
            return _AGAIN_AFTER_S
        kind, sentence = kind_of_death(error, self._records[index].folder)
        self._note(index, "interrupted", kind, sentence)
        return self._repeat_after(index, kind, sentence)

    def note_early_stop(self, index: int) -> None:
        """Note a run that the scheduler stopped; its worker writes a checkpoint and sets the state if it can."""
        self._stopped_early.append(index)

    def mark_stopped_early(self) -> None:
        """Set the state of runs that were stopped early and whose workers ended without setting it."""
        deadline = time.monotonic() + _WORKER_LEAVES_S
        for record in (self._records[index] for index in self._stopped_early):
            while record.state() == "running" and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            if record.state() == "interrupted":
                record.set_status("stopped", error="stopped early")

    def is_stopped(self) -> bool:
        """Return whether the stop file exists."""
        return self._stop.exists()

    def is_working(self) -> bool:
        """Return whether a process is working on a run."""
        return any(record.state() == "running" for record in self._records)

    def _are_held(self) -> bool:
        return self._gate is not None and not self._gate.is_open

    def _repeat_after(self, index: int, kind: str, sentence: str) -> float | None:
        again = is_retried(kind, self._failures[index, kind])
        self._failures[index, kind] += 1
        if again:
            return _AGAIN_AFTER_S if kind in RETRIES else None
        self._set_ended(index)
        if self._records[index].state() not in ("failed", "diverged", "changed"):
            self._note(index, "failed", kind, sentence)
        return None

    def _set_ended(self, index: int) -> None:
        self._unfinished.discard(self._records[index].id)

    def _note(self, index: int, state: State, kind: str, sentence: str) -> None:
        run, record = self._runs[index], self._records[index]
        try:
            record.create(run.science, run.config)
            record.note_failure(state, kind, sentence)
        except OSError as error:  # a full disk must not end the sweep
            what = f"run {record.id} failed, which can't be recorded ({error}): {sentence}"
            say(f"warning: {without_secrets(what)}")
