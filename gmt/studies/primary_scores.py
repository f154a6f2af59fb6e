"""The scores that primary questions are decided by, from rows with the names of the typed table's columns.

Reports have such rows in their table; plans and the stop rule read them from the run records. Both count the same runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gmt.axis import draws_of, seed_of
from gmt.studies.grid import choice_of
from gmt.studies.plan import Plan, PlannedRun
from gmt.tracking.outcomes import outcome_of
from gmt.tracking.question_steps import question_steps
from gmt.verdicts.pairs import Choice
from gmt.verdicts.question import PARTS
from gmt.verdicts.scores import ScoredRun, Scores, scores_of

Rows = Iterable[Mapping[Any, Any]]
# The column of each measure, and the column of the base's score; None: the base's value is 0.
SCORE_COLUMNS: Mapping[str, tuple[str, str | None]] = {
    "target": ("target_after", "target_before"),
    "forgetting": ("forgetting", None),
}
_DRAWS = {"data_seed": "data", "question_seed": "questions"}  # setting -> the word for it in the name of a task


def task_names(runs: Sequence[PlannedRun]) -> dict[str, str]:
    """Return a name for each run's task, by run id.

    The name includes the model and the seeds of data and questions where these vary.
    """
    several_models = len({planned.run.model.name for planned in runs}) > 1
    draws: dict[tuple[str, str], set[int | None]] = {}
    for planned in runs:
        for setting, seed in draws_of(planned.run.config).items():
            draws.setdefault((planned.run.task.name, setting), set()).add(seed)
    names = {}
    for planned in runs:
        task, seeds = planned.run.task.name, draws_of(planned.run.config)
        varied = [setting for setting in _DRAWS if len(draws[task, setting]) > 1]
        words = (f"{_DRAWS[name]} {'by data_seed' if seeds[name] is None else seeds[name]}" for name in varied)
        names[planned.run.id] = ", ".join([task, *([planned.run.model.name] if several_models else []), *words])
    return names


def rows_of_plan(plan: Plan, tasks: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield a row for each compared run: arm, task, axis, seed and state, and the result's columns if the run counts.

    Runs of a checkout with uncommitted changes do not count (gmt.tracking.outcomes).

    Args:
        plan: the study's plan.
        tasks: the names from `task_names`.
    """
    for planned in plan.comparison:
        outcome, config = outcome_of(planned.record), planned.run.config
        arm, value = choice_of(planned.point, config, plan.study.along)
        identity = {"arm": arm, "task": tasks[planned.run.id], "axis": value, "seed": seed_of(config)}
        yield {**identity, **question_steps(config), "state": outcome.state, **outcome.columns}


def scores_of_rows(rows: Rows, measure: str) -> Scores:
    """Return the scores of the runs that are done or diverged, by choice and task.

    Args:
        rows: arm, task, axis, seed and state of runs, with the result's columns or None for each of these, and
            `target_step` and `source_step` (gmt.tracking.question_steps), which may be missing.
        measure: `target` or `forgetting`.
    """
    (column, base), step = SCORE_COLUMNS[measure], f"{PARTS[measure]}_step"

    def scored(row: Mapping[Any, Any]) -> ScoredRun:
        value = row.get(column)
        base_score = 0.0 if base is None else row.get(base)
        choice = Choice(row["arm"], None if row["axis"] is None else float(row["axis"]))
        base_score = None if value is None else base_score
        return ScoredRun(choice, row["task"], int(row["seed"]), row["state"], value, base_score, row.get(step))

    return scores_of(scored(row) for row in rows if row["seed"] is not None)
