"""Carries out a plan: checks what can be checked, freezes it, starts what is left, and watches the records meanwhile.

Progress and MLflow are read from the run records by one thread of the driver, whatever launcher is at work.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gmt.errors import RunFailed, UserError
from gmt.records.record import State
from gmt.studies.frozen import STOP, freeze
from gmt.studies.plan import STATES, Plan, PlannedRun, runs_at_once
from gmt.studies.stopping import stops_in_order
from gmt.studies.watch import Progress, Watch
from gmt.tracking.settings import TrackingSettings

if TYPE_CHECKING:
    from gmt.tracking.mlflow_view import MlflowView

Say = Callable[[str], None]

_POLL_S = 1.0


class RunLauncher(Protocol):
    """Brings runs to machines."""

    def __call__(self, todo: Sequence[PlannedRun], folder: Path) -> None:
        """Does runs until each has ended for good, or the file STOP appears in the sweep's folder."""
        ...


def sweep_identity(plan: Plan) -> str:
    """The same for the same set of runs of a study, so that a sweep that goes on keeps its parent run."""
    ids = ",".join(sorted(plan.ids))
    return hashlib.sha256(f"{plan.study.name}:{ids}".encode()).hexdigest()[:16]


def run_sweep(plan: Plan, tracking: TrackingSettings, launch: RunLauncher, progress: Progress, *, say: Say) -> None:
    """Does every run of a plan that is not done.

    Args:
        plan: the study; every run is checked.
        tracking: where MLflow is.
        launch: see RunLauncher.
        progress: tells of runs that end.
        say: prints a line.

    Raises:
        UserError: something is wrong that would stop a run; nothing was started.
        RunFailed: some runs failed; the others are done.
        KeyboardInterrupt: Ctrl-C was pressed; what was running has kept where it was.
    """
    states = plan.states()
    todo = [planned for planned in plan.runs if states[planned.run.id] not in _over(plan)]
    num_done = sum(state == "done" for state in states.values())
    later = f", {len(plan.later)} more when these have told what to try" if plan.later else ""
    say(f"study {plan.study.name}: {len(plan.runs)} runs, {num_done} done, {len(todo)} to do{later}")
    if not todo:
        say("nothing to do")
        return
    _preflight(todo)
    view = _open_view(tracking)
    folder = freeze(plan, todo)
    with stops_in_order(folder / STOP, say), _watched(plan, todo, view, progress, say):
        launch(todo, folder)
    _conclude(plan, folder, say)


def _over(plan: Plan) -> tuple[State, ...]:
    """The states in which a run is left alone.

    A run that diverged would do so again. What a search gave up stays so as long as the search is asked for.
    """
    return ("done", "diverged") if plan.runs[0].run.config.get("search") is None else ("done", "diverged", "stopped")


def _preflight(todo: Sequence[PlannedRun]) -> None:
    """Makes examples and suites once, so that a fault in them is found before anything starts."""
    from gmt.runs.prepare import prepare

    faults: dict[str, None] = {}
    for planned in todo:
        try:
            prepare(planned.run)
        except UserError as error:
            faults |= dict.fromkeys(error.sentences)
    if faults:
        raise UserError(*faults)


def _open_view(tracking: TrackingSettings) -> "MlflowView | None":
    if tracking.uri is None:
        return None
    from gmt.tracking.mlflow_view import MlflowView

    return MlflowView(tracking)


@contextmanager
def _watched(
    plan: Plan, todo: Sequence[PlannedRun], view: "MlflowView | None", progress: Progress, say: Say
) -> Iterator[None]:
    """Reports progress and keeps MLflow level while the runs go on; a last look follows when they have ended."""
    parent = None
    if view is not None:
        parent = view.open_parent(
            plan.study.name, sweep_identity(plan), _description(plan), {"gmt.study": plan.study.name}
        )
    tracker = None if view is None else _MlflowTracker(plan, view, parent, say)
    watch = Watch(plan, todo, tracker, progress, runs_at_once(plan))
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(_POLL_S):
            watch.look()

    thread = threading.Thread(target=loop, name="gmt-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        watch.look(final=True)
        if view is not None and parent is not None:
            states = list(plan.states().values())
            counts = {f"runs/{state.replace(' ', '_')}": float(states.count(state)) for state in set(states)}
            view.close_parent(parent, failed=any(_is_broken(plan, state) for state in states), metrics=counts)
            view.close()


class _MlflowTracker:
    """Brings MLflow level with a record."""

    def __init__(self, plan: Plan, view: "MlflowView", parent: str | None, say: Say):
        self._plan, self._view, self._parent, self._say = plan, view, parent, say
        self._broken = False

    def look(self, planned: PlannedRun, *, final: bool) -> None:
        method = planned.run.science["method"]
        tags = {
            "gmt.study": self._plan.study.name,
            "gmt.arm": planned.point.arm,
            "gmt.method": str(method["name"]),
            "gmt.stage": planned.point.stage,
        }
        try:
            self._view.sync(planned.record, name=planned.point.label, parent=self._parent, tags=tags, final=final)
        except Exception as error:  # MLflow is a view: whatever it does must not cost a run
            if not self._broken:
                self._say(f"warning: MLflow does not keep up ({type(error).__name__}); the run records hold everything")
            self._broken = True


def _description(plan: Plan) -> str:
    arms = "\n".join(f"- `{arm}`" for arm in plan.study.arms)
    return f"**{plan.study.question.strip()}**\n\n{len(plan.runs)} runs, {time.strftime('%Y-%m-%d')}. Arms:\n{arms}"


def _conclude(plan: Plan, folder: Path, say: Say) -> None:
    states = plan.states()
    broken = [planned for planned in plan.runs if _is_broken(plan, states[planned.run.id])]
    counts = {state: list(states.values()).count(state) for state in STATES}
    if counts["done"] == len(plan.runs):
        say(f"study {plan.study.name}: all {len(plan.runs)} runs are done")
        return
    if not broken or (folder / STOP).exists():
        say(f"study {plan.study.name}: " + ", ".join(f"{n} {state}" for state, n in counts.items() if n))
    if not broken:
        return
    if (folder / STOP).exists():
        raise KeyboardInterrupt
    raise RunFailed(
        f"study {plan.study.name}: {len(broken)} of {len(plan.runs)} runs are not done: "
        + "; ".join(f"{p.point.label} ({states[p.run.id]}, {p.record.folder})" for p in broken)
        + ". Sweep again to go on with them."
    )


def _is_broken(plan: Plan, state: State) -> bool:
    """A run that diverged is over, and still no success; one that was tried with a bad value was tried well."""
    return state not in _over(plan) or (state == "diverged" and not plan.later)
