"""Mirrors a plan to MLflow: a parent run for the plan, and a run for each of its runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gmt.axis import seed_of
from gmt.errors import UserError
from gmt.garbage import no_collections
from gmt.studies.plan import STATES, Plan, PlannedRun, broken
from gmt.studies.tuning_words import values_in_words
from gmt.studies.watch import Tracker
from gmt.tracking.mirror import Mirror, MirroredRun, OpenStore, Say
from gmt.tracking.settings import TrackingSettings
from gmt.tracking.views import CHOICE, LONGEST_DESCRIPTION

if TYPE_CHECKING:
    from gmt.tracking.mlflow_view import MlflowView

_QUESTION = "\n\n## Question\n"  # below the result, since a folded page shows only the first lines
_MOST_SENTENCES = 12


class MirrorOfPlan:
    """Mirrors a plan to MLflow in two steps: `connect` while the sweep is checked, and `mirror` once it may start.

    Args:
        plan: the study's plan.
        tracking: the settings of MLflow.
        say: prints a line.
        remedy: a command that later writes the missing values to MLflow.
        must_answer: whether to raise an error if the store does not answer at first; if not, the mirror tries later.
    """

    def __init__(self, plan: Plan, tracking: TrackingSettings, say: Say, remedy: str, *, must_answer: bool):
        self._plan, self._tracking, self._say, self._remedy = plan, tracking, say, remedy
        self._must_answer = must_answer
        self._view: MlflowView | None = None

    def connect(self) -> None:
        """Import MLflow and connect to the store, which takes seconds; no run is made in it.

        Raises:
            UserError: the store must answer, and does not.
        """
        if self._tracking.uri is not None and self._must_answer:
            self._open_view()

    @contextmanager
    def mirror(self) -> Iterator[Tracker | None]:
        """Yield a tracker that mirrors changed records to MLflow, and update the plan's parent run at the end.

        It yields None if the settings name no store.

        Raises:
            UserError: the store must answer, and does not.
        """
        if self._tracking.uri is None:
            yield None
            return
        mirror = Mirror(self._open_store, self._say, self._remedy)
        if self._must_answer:
            mirror.open()
        try:
            with mirror:
                yield _PlanTracker(self._plan, mirror)
        finally:
            if self._view is not None and mirror.store is not None and mirror.store.parent is not None:
                try:
                    _close_parent(self._plan, self._view, mirror.store.parent)
                except UserError as error:
                    self._say(f"warning: {error}; `{self._remedy}` writes what is missing")

    def _open_view(self) -> "MlflowView":
        if self._view is None:
            with no_collections():
                from gmt.tracking.mlflow_view import MlflowView

                self._view = MlflowView(self._tracking)
        return self._view

    def _open_store(self) -> OpenStore:
        view = self._open_view()
        return OpenStore(view=view, parent=_open_parent(self._plan, view))


def write_missing(plan: Plan, view: "MlflowView") -> list[str]:
    """Write all values of a plan's records that MLflow lacks, and the parent run; no other process may sweep the plan.

    Returns:
        A clause for each run that MLflow does not have completely.

    Raises:
        UserError: the store stopped answering.
    """
    from gmt.tracking.missing import write_missing_records

    parent = _open_parent(plan, view)
    try:
        return write_missing_records(
            view, [mirrored(plan, planned) for planned in plan.runs if planned.record.exists()], parent
        )
    finally:
        _close_parent(plan, view, parent)


def _open_parent(plan: Plan, view: "MlflowView") -> str:
    parent = view.open_parent(plan.study.name, plan.identity, describe(plan), {"gmt.study": plan.study.name})
    tasks = ["gmt.task"] if len({planned.run.task.name for planned in plan.comparison}) > 1 else []
    _, page = view.pages(plan.identity)
    view.prepare(
        [*tasks, "gmt.arm", f"gmt.{plan.study.along.key}"], f"{plan.study.question.strip()} [The result]({page})"
    )
    return parent


def _close_parent(plan: Plan, view: "MlflowView", parent: str) -> None:
    by_run = plan.states()
    states = list(by_run.values())
    counts = {f"runs/{state.replace(' ', '_')}": float(states.count(state)) for state in STATES}
    result, heading, _ = view.description(plan.identity).partition(_QUESTION)
    view.close_parent(
        parent,
        faults={by_run[planned.run.id] for planned in broken(plan, by_run)},
        metrics=counts,
        description=describe(plan, result if heading else ""),
    )


def mirrored(plan: Plan, planned: PlannedRun) -> MirroredRun:
    """Return a run of a plan with its name and tags in MLflow."""
    science, point = planned.run.science, planned.point
    axis = plan.study.along
    values = {
        axis.key: axis.value(planned.run.config),
        "seed": seed_of(planned.run.config),
        "merge": None if planned.run.merge is None else planned.run.merge.name,
    }
    tags = {
        **{f"gmt.{key}": str(value) for key, value in values.items() if value is not None},
        "gmt.study": plan.study.name,
        CHOICE: point.short_name(axis, with_seed=False),
        "gmt.arm": point.arm,
        "gmt.method": str(science["method"]["name"]),
        "gmt.task": str(science["task"]["name"]),
        "gmt.model": str(science["model"]["name"]),
        "gmt.stage": point.stage,
    }
    return MirroredRun(record=planned.record, name=point.short_name(axis), tags=tags)


class _PlanTracker:
    """A tracker that passes changed runs of a plan to the mirror."""

    def __init__(self, plan: Plan, mirror: Mirror):
        self._plan, self._mirror = plan, mirror

    def note_change(self, planned: PlannedRun, *, final: bool) -> None:
        self._mirror.note_change(mirrored(self._plan, planned), final=final)


def reported(num_runs: int, sentences: Sequence[str]) -> str:
    """Return the results of the exploratory tests of a number of finished runs, as Markdown."""
    if len(sentences) > _MOST_SENTENCES:
        return f"{num_runs} runs are finished; the report among the artifacts has {len(sentences)} results of tests."
    return "\n".join([f"Of {num_runs} finished runs:\n", *(f"- {sentence}" for sentence in sentences)])


def describe(plan: Plan, result: str = "") -> str:
    """Return the result, question and plan of a study as Markdown, of at most LONGEST_DESCRIPTION letters.

    If the text is longer, the last arms are left out, then the last lines of the result.

    Args:
        plan: the study's plan.
        result: the reported result; empty if there is none.
    """
    study = plan.study
    arms = [f"- `{arm}`" + "".join(f", {k}: {v}" for k, v in axes.items()) for arm, axes in study.arms.items()]
    states = list(plan.states().values())
    counts = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
    axis = "" if study.axis is None else f", along the {study.along.name} ({study.axis})"
    tuned = f" {values}" if (values := values_in_words(plan.tuned)) else ""
    result = result or f"`gmt report study={study.name}` puts it here."

    def page(result: str, num_arms: int) -> str:
        num_omitted = len(arms) - num_arms
        omitted = f"- and {num_omitted} more of {len(arms)} arms: `gmt plan study={study.name}` lists all"
        lines = [*arms[:num_arms], *([omitted] if num_omitted else [])]
        return (
            f"{result}{_QUESTION}{study.question.strip()}\n\n"
            f"## Plan\n{len(plan.runs)} runs: {counts}. Arms:\n" + "\n".join(lines) + "\n\n"
            f"Baseline {study.baseline}, margin {100 * study.margin:g} points{axis}.{tuned}"
        )

    fitting = (num for num in range(len(arms), -1, -1) if len(page(result, num)) <= LONGEST_DESCRIPTION)
    if (num_arms := next(fitting, None)) is not None:
        return page(result, num_arms)
    ending = f"\n\n`gmt show study={study.name}` shows the rest."
    room = LONGEST_DESCRIPTION - len(page(ending, 0))
    return page(result[: max(room, 0)].rpartition("\n")[0] + ending, 0)
