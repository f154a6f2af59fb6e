"""Carries out a plan: checks what can be checked, freezes it, starts what is left, and watches the records meanwhile.

Progress and MLflow are read from the run records by one thread of the driver, whatever launcher is at work.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gmt.errors import RunFailed, UserError
from gmt.records.record import State
from gmt.studies.frozen import STOP, freeze
from gmt.studies.plan import STATES, Plan, PlannedRun, runs_at_once
from gmt.studies.stopping import stops_in_order
from gmt.studies.watch import Progress, Tracker, Watch, each_second
from gmt.tracking.settings import TrackingSettings

if TYPE_CHECKING:
    from gmt.tracking.mirror import Mirror, Mirrored
    from gmt.tracking.mlflow_view import MlflowView

Say = Callable[[str], None]


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
    with nullcontext() if view is None else _mirrored(plan, view, say) as tracker:
        watch = Watch(plan, todo, tracker, progress, runs_at_once(plan))
        try:
            with each_second(watch.look):
                yield
        finally:
            watch.look(final=True)


@contextmanager
def _mirrored(plan: Plan, view: "MlflowView", say: Say) -> Iterator[Tracker]:
    from gmt.tracking.mirror import Mirror

    parent, remedy = open_parent(plan, view), f"gmt sync study={plan.study.name}"
    try:
        with Mirror(view, parent, say, remedy) as mirror:
            yield _PlanMirror(plan, mirror)
    finally:
        try:
            close_parent(plan, view, parent)
        except UserError as error:
            say(f"warning: {error}; `{remedy}` brings it level")


def open_parent(plan: Plan, view: "MlflowView") -> str:
    """The MLflow id of the parent run of a plan's sweeps."""
    return view.open_parent(plan.study.name, sweep_identity(plan), describe(plan), {"gmt.study": plan.study.name})


def close_parent(plan: Plan, view: "MlflowView", parent: str) -> None:
    """Ends the parent run with how many runs are in which state.

    Raises:
        UserError: the store doesn't answer.
    """
    states = list(plan.states().values())
    counts = {f"runs/{state.replace(' ', '_')}": float(states.count(state)) for state in set(states)}
    failed = any(_is_broken(plan, state) for state in states)
    view.close_parent(parent, failed=failed, metrics=counts, description=describe(plan))


def mirrored(plan: Plan, planned: PlannedRun) -> "Mirrored":
    """A run of a plan as MLflow shows it."""
    from gmt.tracking.mirror import Mirrored

    science, point = planned.run.science, planned.point
    ratio = science["method"].get("mask_ratio")
    tags = {
        "gmt.study": plan.study.name,
        "gmt.arm": point.arm,
        "gmt.method": str(science["method"]["name"]),
        "gmt.task": str(science["task"]["name"]),
        "gmt.model": str(science["model"]["name"]),
        "gmt.seed": str(science["seed"]),
        "gmt.stage": point.stage,
    }
    if ratio is not None:
        tags["gmt.mask_ratio"] = str(ratio)
    return Mirrored(record=planned.record, name=point.label, tags=tags)


class _PlanMirror:
    """Hands on which runs of a plan have changed."""

    def __init__(self, plan: Plan, mirror: "Mirror"):
        self._plan, self._mirror = plan, mirror

    def look(self, planned: PlannedRun, *, final: bool) -> None:
        self._mirror.look(mirrored(self._plan, planned), final=final)


def describe(plan: Plan, said: Sequence[str] = ()) -> str:
    """Question, plan and result of a study, as Markdown.

    Args:
        plan: of the study.
        said: what its report says, a sentence each.
    """
    arms = "\n".join(
        f"- `{arm}`" + "".join(f", {k}: {v}" for k, v in axes.items()) for arm, axes in plan.study.arms.items()
    )
    states = list(plan.states().values())
    counts = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
    found = "\n".join(f"- {sentence}" for sentence in said) or f"`gmt report study={plan.study.name}` puts it here."
    return (
        f"**{plan.study.question.strip()}**\n\n## Plan\n{len(plan.runs)} runs: {counts}. Arms:\n{arms}\n\n"
        f"Baseline {plan.study.baseline}, margin {100 * plan.study.margin:g} points.\n\n## Result\n{found}"
    )


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
