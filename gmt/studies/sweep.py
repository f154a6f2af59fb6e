"""Carries out a plan: checks and freezes it, starts the runs that are not done, and watches their records.

A thread of the driver reads the run records for the progress display and for MLflow, whatever the launcher.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

from gmt.errors import RunFailed, UserError
from gmt.studies.differing import uncommitted_changes
from gmt.studies.frozen import STOP, freeze, new_sweep
from gmt.studies.grid import Point
from gmt.studies.plan import STATES, Plan, PlannedRun, broken, changes, runs_at_once, settled_states
from gmt.studies.preflight import faults_of_runs
from gmt.studies.stopping import no_lost_interrupt, stops_in_order
from gmt.studies.tracked import MirrorOfPlan, write_missing
from gmt.studies.watch import Progress, Tracker, Watch, each_second
from gmt.tracking.settings import TrackingSettings

Say = Callable[[str], None]


class RunLauncher(Protocol):
    """Does runs on machines."""

    def __call__(self, todo: Sequence[PlannedRun], folder: Path) -> None:
        """Do runs until each has ended and needs no other attempt, or the file STOP appears in the sweep's folder."""
        ...


class CheckInWorker(Protocol):
    """Checks the runs of a sweep in one of its workers."""

    def __call__(self, prepare_driver: Callable[[], None]) -> Sequence[str] | None:
        """Hand the first runs to workers, and wait until one worker has checked all runs; no run begins yet.

        Args:
            prepare_driver: called once, while the workers import libraries.

        Returns:
            A sentence for each fault of the runs; None if no worker could check them, so that the caller has to.
        """
        ...


@runtime_checkable
class StartsEarly(Protocol):
    """A RunLauncher that starts workers before `__call__`, and checks the runs in one of them."""

    def starting(self, todo: Sequence[PlannedRun], folder: Path) -> AbstractContextManager[CheckInWorker]:
        """Return a context manager that starts workers on entry and ends them on exit; no run begins before `__call__`.

        The block must call the CheckInWorker exactly once, before `__call__`.

        Args:
            todo, folder: the arguments of the later `__call__`.
        """
        ...


def run_sweep(
    plan: Plan,
    tracking: TrackingSettings,
    launch: RunLauncher,
    progress: Progress,
    *,
    say: Say,
    remedy: str,
    is_under_way: bool = False,
) -> bool:
    """Do every run of a plan that is not done.

    Args:
        plan: the study's plan, with checked runs.
        tracking: the settings of MLflow.
        launch: does the runs, see RunLauncher.
        progress: shows the progress.
        say: prints a line.
        remedy: a command that later writes the missing values to MLflow.
        is_under_way: whether this sweep has already done runs of the study; if so, an MLflow store that does not answer
            is tried again later instead of refused.

    Returns:
        Whether there was a run to do.

    Raises:
        UserError: a fault would stop a run; nothing was started.
        RunFailed: some runs failed; the others are done.
        KeyboardInterrupt: Ctrl-C was pressed; the running runs have written checkpoints.
    """
    states = plan.states()
    todo = [planned for planned in in_order(plan.runs) if states[planned.run.id] not in settled_states(plan)]
    num_done = sum(state == "done" for state in states.values())
    later = f", {len(plan.later)} more will be scheduled once tuning has chosen their settings" if plan.later else ""
    say(f"study {plan.study.name}: {len(plan.runs)} runs, {num_done} done, {len(todo)} to do{later}")
    changed = changes(plan, states)
    if not todo:
        say("nothing to do")
        _write_missing(plan, tracking, say, remedy)
        if changed:
            raise RunFailed(f"study {plan.study.name}: {'; '.join(changed)}")
        return False
    for sentence in (*changed, *uncommitted_changes()):
        say(f"warning: {sentence}")
    say("checking examples, evaluations and methods before the first run starts")
    folder = new_sweep(plan)
    mlflow = MirrorOfPlan(plan, tracking, say, remedy, must_answer=not is_under_way)
    with ExitStack() as until_the_end:
        _check(todo, folder, launch, mlflow, until_the_end)
        freeze(todo, folder)
        with (
            stops_in_order(folder / STOP, say),
            mlflow.mirror() as tracker,
            _watched(plan, todo, tracker, progress),
        ):
            launch(todo, folder)
    _conclude(plan, folder, say)
    return True


def _check(
    todo: Sequence[PlannedRun], folder: Path, launch: RunLauncher, mlflow: MirrorOfPlan, until_the_end: ExitStack
) -> None:
    """Check the runs of a sweep before any begins: in a worker, which then lives until `until_the_end`, or here.

    Raises:
        UserError: a fault would stop a run, or MLflow's store does not answer.
    """
    check: CheckInWorker = _do_not_check
    with no_lost_interrupt():
        todo[0].run.record_settings.close_to_others()
        if isinstance(launch, StartsEarly):
            check = until_the_end.enter_context(launch.starting(todo, folder))
    with no_lost_interrupt():  # again, since Ray has replaced the handlers of the first block
        if (faults := check(mlflow.connect)) is None:
            faults = faults_of_runs([planned.run for planned in todo])
    if faults:
        raise UserError(*faults)


def _do_not_check(prepare_driver: Callable[[], None]) -> None:
    """Prepare the driver, and return None: no worker has checked the runs."""
    prepare_driver()


def in_order(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return runs in their starting order: trainings, with arms in turns, then merges, each after its parents."""
    by_depth: dict[int, list[PlannedRun]] = {}
    for planned in runs:
        by_depth.setdefault(_depth(planned.point), []).append(planned)
    return [planned for _, same_depth in sorted(by_depth.items()) for planned in in_turns(same_depth)]


def _depth(point: Point) -> int:
    """Return 0 for a training, 1 for a merge of trainings, 2 for a merge of merges, and so on."""
    return 1 + max(map(_depth, point.parents)) if point.parents else 0


def in_turns(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return runs seed by seed; each seed begins with another arm.

    A slow change of the machine then affects all arms alike. The first run, which the start of other workers slows
    down, is not always of the same arm.
    """
    by_seed: dict[int, list[PlannedRun]] = {}
    for planned in sorted(runs, key=lambda planned: planned.run.seed):
        by_seed.setdefault(planned.run.seed, []).append(planned)
    ordered = []
    for position, of_seed in enumerate(by_seed.values()):
        first = position * max(len(of_seed) // len(by_seed), 1) % len(of_seed)
        ordered += of_seed[first:] + of_seed[:first]
    return ordered


def _write_missing(plan: Plan, tracking: TrackingSettings, say: Say, remedy: str) -> None:
    """Write the records of finished runs that MLflow lacks, because the driver was killed or the store was down."""
    if tracking.uri is None:
        return
    from gmt.tracking.mlflow_view import MlflowView

    try:
        faults = write_missing(plan, MlflowView(tracking))
    except UserError as error:
        faults = [str(error)]
    if faults:
        say(f"warning: MLflow lacks run values ({faults[0]}); the records have them, `{remedy}` writes them")


@contextmanager
def _watched(plan: Plan, todo: Sequence[PlannedRun], tracker: Tracker | None, progress: Progress) -> Iterator[None]:
    """Within the block, show progress and pass changed records to the tracker; check all records again at the end."""
    started = {planned.run.id for planned in todo}
    for planned in plan.runs:
        if tracker is not None and planned.run.id not in started:
            tracker.note_change(planned, final=True)  # the run may have ended while no sweep watched it
    watch = Watch(plan, todo, tracker, progress, runs_at_once(plan))
    try:
        with each_second(watch.check_records):
            yield
    finally:
        watch.check_records(final=True)


def _conclude(plan: Plan, folder: Path, say: Say) -> None:
    states = plan.states()
    broken_runs = broken(plan, states)
    counts = {state: list(states.values()).count(state) for state in STATES}
    if counts["done"] == len(plan.runs):
        say(f"study {plan.study.name}: all {len(plan.runs)} runs are done")
        return
    if not broken_runs or (folder / STOP).exists():
        say(f"study {plan.study.name}: " + ", ".join(f"{n} {state}" for state, n in counts.items() if n))
    if not broken_runs:
        return
    if (folder / STOP).exists():
        raise KeyboardInterrupt
    if len(changed := changes(plan, states)) == len(broken_runs):
        raise RunFailed(f"study {plan.study.name}: {'; '.join(changed)}")
    raise RunFailed(
        f"study {plan.study.name}: {len(broken_runs)} of {len(plan.runs)} runs are not done: "
        + "; ".join(f"{p.point.label} ({states[p.run.id]}, {p.record.folder})" for p in broken_runs)
        + ". A new sweep resumes them, except runs that diverged or were changed."
    )
