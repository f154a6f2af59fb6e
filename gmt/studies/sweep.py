"""Carries out a plan: checks what can be checked, starts what is left, and watches the records while it runs.

The launcher is Hydra's interface and knows nothing of studies. Progress and MLflow are read from the run records
by one thread of the driver, whatever launcher is at work.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gmt.duration import duration
from gmt.errors import RunFailed, UserError
from gmt.records.record import State
from gmt.studies.plan import Plan, PlannedRun, runs_at_once, seconds_left
from gmt.tracking.settings import TrackingSettings

if TYPE_CHECKING:
    from gmt.tracking.mlflow_view import MlflowView

Say = Callable[[str], None]
Launch = Callable[[Sequence[Sequence[str]]], object]

_POLL_S = 1.0
_ORPHANS_S = 20.0  # Ray ends the workers of a driver that was killed within some seconds


def sweep_identity(plan: Plan) -> str:
    """The same for the same set of runs of a study, so that a sweep that goes on keeps its parent run."""
    ids = ",".join(sorted(planned.run.id for planned in plan.runs))
    return hashlib.sha256(f"{plan.study.name}:{ids}".encode()).hexdigest()[:16]


def run_sweep(plan: Plan, tracking: TrackingSettings, launch: Launch, *, say: Say) -> None:
    """Does every run of a plan that is not done.

    Args:
        plan: the study; every run is checked.
        tracking: where MLflow is.
        launch: starts one job for each list of overrides, and returns when all have ended.
        say: prints a line.

    Raises:
        UserError: something is wrong that would stop a run; nothing was started.
        RunFailed: some runs failed; the others are done.
    """
    states = _settled(plan)
    todo = [planned for planned in plan.runs if states[planned.run.id] not in ("done", "running")]
    num_done = sum(state == "done" for state in states.values())
    say(f"study {plan.study.name}: {len(plan.runs)} runs, {num_done} done, {len(todo)} to do")
    if not todo:
        say("nothing to do")
        return
    _preflight(todo)
    view = _open_view(tracking)
    with _watched(plan, todo, view, say):
        launch([list(planned.point.overrides) for planned in todo])
    _conclude(plan, say)


def _settled(plan: Plan) -> dict[str, State]:
    """The states of the runs; waits a while for workers that a killed sweep left behind and that are about to end."""
    deadline = time.monotonic() + _ORPHANS_S
    while "running" in (states := plan.states()).values() and time.monotonic() < deadline:
        time.sleep(_POLL_S / 4)
    return states


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
def _watched(plan: Plan, todo: Sequence[PlannedRun], view: "MlflowView | None", say: Say) -> Iterator[None]:
    """Reports progress and keeps MLflow level while the runs go on; a last look follows when they have ended."""
    parent = None
    if view is not None:
        parent = view.open_parent(
            plan.study.name, sweep_identity(plan), _description(plan), {"gmt.study": plan.study.name}
        )
    watch = _Watch(plan, todo, view, parent, say)
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
            view.close_parent(parent, failed=any(state != "done" for state in states), metrics=counts)


class _Watch:
    """Looks at the records of a sweep: says what ended and brings MLflow level."""

    def __init__(self, plan: Plan, todo: Sequence[PlannedRun], view: "MlflowView | None", parent: str | None, say: Say):
        self._plan, self._todo, self._view, self._parent, self._say = plan, todo, view, parent, say
        # A failed or interrupted record is old news until its next attempt writes to it.
        self._seen = {planned.run.id: _stamp(planned) for planned in todo}
        self._ended: dict[str, State] = {}
        self._broken: str | None = None

    def look(self, *, final: bool = False) -> None:
        for planned in self._todo:
            if planned.run.id in self._ended or _stamp(planned) == self._seen[planned.run.id]:
                continue
            state = planned.record.state()
            self._track(planned, final)
            # A worker that died may be started again at once: only the last look takes that for an end.
            if state in ("done", "failed") or (final and state == "interrupted"):
                self._ended[planned.run.id] = state
                self._report(planned, state)

    def _track(self, planned: PlannedRun, final: bool) -> None:
        if self._view is None:
            return
        method = planned.run.science["method"]
        tags = {
            "gmt.study": self._plan.study.name,
            "gmt.arm": planned.point.arm,
            "gmt.method": str(method["name"]),
        }
        try:
            self._view.sync(planned.record, name=planned.point.label, parent=self._parent, tags=tags, final=final)
        except Exception as error:  # MLflow is a view: whatever it does must not cost a run
            if self._broken is None:
                self._say(f"warning: MLflow does not keep up ({type(error).__name__}); the run records hold everything")
            self._broken = str(error)

    def _report(self, planned: PlannedRun, state: State) -> None:
        number = f"[{len(self._ended):>{len(str(len(self._todo)))}}/{len(self._todo)}]"
        if state == "done":
            result = planned.record.read("result.json")
            scores = f"target {result['after']['target']['mean']:.1%}, source {result['after']['source']['mean']:.1%}"
            left, _ = seconds_left(self._plan, self._plan.states(), at_once=runs_at_once(self._plan))
            remaining = f", about {duration(left)} left" if left else ""
            self._say(f"{number} done    {planned.point.label}: {scores} in {duration(result['seconds'])}{remaining}")
        else:
            error = planned.record.status().get("error") or "stopped before its end"
            self._say(f"{number} {state:<7} {planned.point.label}: {error} ({planned.record.folder})")


def _stamp(planned: PlannedRun) -> float:
    path = planned.record.folder / "status.json"
    return path.stat().st_mtime if path.exists() else 0.0


def _description(plan: Plan) -> str:
    arms = "\n".join(f"- `{arm}`" for arm in plan.study.arms)
    return f"**{plan.study.question.strip()}**\n\n{len(plan.runs)} runs, {time.strftime('%Y-%m-%d')}. Arms:\n{arms}"


def _conclude(plan: Plan, say: Say) -> None:
    states: Mapping[str, State] = plan.states()
    broken = [planned for planned in plan.runs if states[planned.run.id] != "done"]
    if not broken:
        say(f"study {plan.study.name}: all {len(plan.runs)} runs are done")
        return
    raise RunFailed(
        f"study {plan.study.name}: {len(broken)} of {len(plan.runs)} runs are not done: "
        + "; ".join(f"{p.point.label} ({states[p.run.id]}, {p.record.folder})" for p in broken)
        + ". Sweep again to go on with them."
    )
