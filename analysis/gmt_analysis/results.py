"""The numbers and figures of a study, read and computed once, for the report and the notebooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import pandas as pd

from gmt.axis import Axis, draws_of, seed_of
from gmt.errors import UserError
from gmt.records.record import RunRecord
from gmt.studies.differing import differing_code
from gmt.studies.grid import arm_of, choice_of
from gmt.studies.plan import Plan, PlannedRun
from gmt.studies.primary_scores import task_names
from gmt.tracking.outcomes import DIRTY, UNSCORED
from gmt.tracking.series import read_series
from gmt.tracking.suite_scores import read_suites
from gmt.tracking.table import changes, left_out, read_table
from gmt.verdicts.pairs import Choice
from gmt.verdicts.verdict import Verdict
from gmt_analysis.choices import CHOICE, with_base_scores
from gmt_analysis.costs import COSTS, TIMES, costs_of_choices, costs_of_runs
from gmt_analysis.diagnoses import DiagnosticTable, read_diagnoses
from gmt_analysis.findings import MEASURES, Findings, findings
from gmt_analysis.frontier import ON_THE_WAY, Frontier, frontier_of, points_on_the_way
from gmt_analysis.loss_figures import LOSS
from gmt_analysis.mask_figures import FACTS
from gmt_analysis.primary import primary_verdicts
from gmt_analysis.right_answers import right_answers
from gmt_analysis.statistics import summarise
from gmt_analysis.tables import SCORES
from gmt_analysis.variation import draws_in_words, variation

BEFORE = ("target_before", "source_before", "source_perplexity_before")
_PLANNED = ("model", "task", "axis", "data_seed", "question_seed", "seed")
_OTHERS = ("source_after", "target_density")


def _describe(planned: PlannedRun, axis: Axis) -> dict[str, Any]:
    return {
        "arm": arm_of(planned.point, axis),
        "task": planned.run.task.name,
        "axis": axis.value(planned.run.config),
        "seed": seed_of(planned.run.config),
        "model": planned.run.model.name,
    }


class Results:
    """The results of a study with at least one finished run.

    Args:
        plan: the study's plan; no number includes its unfinished runs.
        dirty: whether runs of a checkout with uncommitted changes count.

    Raises:
        UserError: no run of the study is done, or none that counts.
    """

    def __init__(self, plan: Plan, *, dirty: bool = False):
        self.plan, self.axis, self._dirty = plan, plan.study.along, dirty
        if (self.table["state"] == "done").any():
            return
        name = plan.study.name
        if changed := changes(self.table):
            raise UserError(f"study {name} has no finished run with an unchanged record to report on", *changed)
        if number := int((self.table["state"] == DIRTY).sum()):
            raise UserError(
                f"a report of study {name} needs runs from a committed checkout, and all {number} finished runs are "
                "from one with uncommitted changes; --dirty includes them"
            )
        if number := int((self.table["state"] == UNSCORED).sum()):
            raise UserError(
                f"study {name} has no run to report on: {number} finished {'run has' if number == 1 else 'runs have'} "
                "a score or a loss that is NaN or Inf"
            )
        if plan.tuned:
            num_done, num_runs = (sum(getattr(tuned, key) for tuned in plan.tuned) for key in ("num_done", "num_runs"))
            raise UserError(
                f"study {name} has no finished run to report on: {num_done} of {num_runs} runs that tune "
                f"{plan.tuned[0].setting} are done"
            )
        raise UserError(f"study {name} has no finished run to report on; run `gmt sweep` with it first")

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row for each run, see gmt.tracking.table; a run that has not begun has only the columns from its plan."""
        runs = ((arm_of(p.point, self.axis), p.point.label, p.record) for p in self.plan.comparison)
        table = read_table(runs, axis=self.axis, dirty=self._dirty)
        dtypes = {column: table[column].dtype for column in _PLANNED}
        rows = [_describe(p, self.axis) | draws_of(p.run.config) for p in self.plan.comparison]
        planned = pd.DataFrame(rows, columns=list(dtypes)).astype(dtypes)
        return table.assign(**{column: table[column].fillna(planned[column]) for column in _PLANNED})

    @cached_property
    def table(self) -> pd.DataFrame:
        """`runs` as they are compared: the name of a task includes its model and its data and question seeds, if these
        vary."""
        names = self.runs["run_id"].map(task_names(self.plan.comparison)).astype("string")
        table = self.runs.assign(task=names)
        done = table[table["state"] == "done"]
        if (duplicates := done[done.duplicated([*CHOICE, "seed"], keep=False)]).shape[0]:
            examples = ", ".join(duplicates["label"].head(2))
            raise UserError(
                f"the runs of study {self.plan.study.name} must differ in arm, model, task, {self.axis.key} or seed "
                f"to be compared, and {len(duplicates)} don't, such as {examples}"
            )
        return table

    @cached_property
    def counted(self) -> pd.DataFrame:
        """`table` with the base's scores for runs that diverged, for tests and the frontier."""
        return with_base_scores(self.table)

    @cached_property
    def done(self) -> list[PlannedRun]:
        """The finished runs that all numbers are computed from."""
        ids = set(self.table.loc[self.table["state"] == "done", "run_id"])
        return [planned for planned in self.plan.comparison if planned.run.id in ids]

    @cached_property
    def missing(self) -> list[str]:
        """A sentence on the runs that no number includes, by their states; empty if there are none."""
        return left_out(self.table)

    @cached_property
    def warnings(self) -> list[str]:
        """Sentences to show beside every mean: on runs that are `missing`, were changed, or were made by other code."""
        return [*self.missing, *changes(self.table), *differing_code(self.done)]

    @cached_property
    def unverified(self) -> list[str]:
        """A sentence on the counted runs whose records are too old to hold digests; empty if there are none."""
        if not (number := sum(not planned.record.has_digests() for planned in self.done)):
            return []
        runs = "1 run was" if number == 1 else f"{number} runs were"
        return [f"{runs} recorded before records held digests: later changes of their files can't be detected."]

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Means over seeds with their intervals; `tokens_per_s` counts the time in optimizer steps alone."""
        speed = self.table.assign(tokens_per_s=self.table["num_tokens"] / self.table["train_s"])
        return summarise(speed, [*SCORES, *COSTS, *BEFORE, *_OTHERS], bootstrapped=("target_after", "forgetting"))

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The answers to the questions that the study declared as primary; empty if it declared none."""
        study = self.plan.study
        answers = right_answers(self._chosen_runs(), {question.measure for question in study.questions})
        verdicts = primary_verdicts(
            self.table, study.questions, axis=self.axis, level=self.plan.level, right_answers=answers
        )
        return [replace(verdict, about=f"{verdict.about} {self.draws}".strip()) for verdict in verdicts]

    @cached_property
    def draws(self) -> str:
        """A sentence on what intervals are about if data, questions or bases are drawn several times; else empty."""
        return draws_in_words(self.runs)

    @cached_property
    def variation(self) -> pd.DataFrame:
        """The parts of the variance of differences, see gmt_analysis.variation, with the column `measure`."""
        baseline = self.plan.study.baseline
        parts = {m.column: variation(self.runs, m.column, baseline=baseline) for m in MEASURES}
        return pd.concat([rows.assign(measure=column) for column, rows in parts.items()], ignore_index=True)

    @cached_property
    def suites(self) -> pd.DataFrame:
        """The evaluations of each run one by one, see gmt.tracking.suite_scores."""
        return self._with_choices(read_suites(self._named_runs(), axis=self.axis))

    @cached_property
    def costs_of_runs(self) -> pd.DataFrame:
        """The costs of each run, without the start of its worker; see gmt_analysis.costs."""
        return costs_of_runs(self.table, self.series)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """The medians of the costs over the runs of each choice."""
        return costs_of_choices(self.costs_of_runs)

    @cached_property
    def findings(self) -> list[Findings]:
        """The results of the exploratory tests: of everything that the study did not declare as primary."""
        study = self.plan.study
        return findings(self.counted, axis=self.axis, baseline=study.baseline, margin=study.margin)

    @cached_property
    def frontier(self) -> Frontier:
        """Forgetting at the baseline's target score less the margin, also for early stops of runs that log scores."""
        rows = [part for part in (self.counted, points_on_the_way(self.series)) if len(part)]
        study = self.plan.study
        return frontier_of(pd.concat(rows, ignore_index=True), baseline=study.baseline, margin=study.margin)

    @cached_property
    def series(self) -> pd.DataFrame:
        """The logged metrics of the runs: loss, times of a step's parts, facts on masks, scores during training."""
        names = (LOSS, *TIMES, *FACTS, *ON_THE_WAY)
        return self._with_choices(read_series(self._named_runs(), names, axis=self.axis))

    def _named_runs(self) -> Iterator[tuple[str, str, RunRecord]]:
        """Yield arm, label and record of each run that counts."""
        return ((arm_of(p.point, self.axis), p.point.label, p.record) for p in self.done)

    def _chosen_runs(self) -> Iterator[tuple[Choice, str, int, RunRecord]]:
        """Yield choice, task, seed and record of each run that counts and is of one seed."""
        tasks = self._by_run("task")
        for planned in self.done:
            if (seed := seed_of(planned.run.config)) is not None:
                choice = choice_of(planned.point, planned.run.config, self.axis)
                yield choice, str(tasks[planned.run.id]), seed, planned.record

    def _with_choices(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return rows with the task and the axis of their runs in `table`."""
        return rows.assign(**{name: rows["run_id"].map(self._by_run(name)) for name in ("task", "axis")})

    @cached_property
    def diagnoses(self) -> Mapping[str, DiagnosticTable]:
        """The measurements of `gmt diagnose`, by the name of the diagnostic."""
        tasks = self._by_run("task")
        return read_diagnoses(self.done, lambda p: {**_describe(p, self.axis), "task": tasks[p.run.id]})

    @cached_property
    def operations(self) -> pd.DataFrame:
        """The operations of each choice, counted on one of its runs by `gmt diagnose diagnostic=operations`.

        Returns:
            A row for each choice with a counted run: arm, task, axis, gflops_a_step (10^9 operations) and tflops_a_run
            (10^12).
        """
        columns = {"step": ("gflops_a_step", 1e9), "training": ("tflops_a_run", 1e12)}
        operations = pd.DataFrame(columns=[*CHOICE, *(column for column, _ in columns.values())], dtype=float)
        if (counted := self.diagnoses.get("operations")) is not None and len(counted.rows):
            by_run = counted.rows.pivot(index="run_id", columns="name", values="value").reset_index()
            rows = self.table[[*CHOICE, "run_id"]].merge(by_run, on="run_id").drop_duplicates(CHOICE)
            counts = {column: rows[name] / unit for name, (column, unit) in columns.items()}
            operations = rows[CHOICE].assign(**counts).reset_index(drop=True)
        return operations.astype({"arm": "string", "task": "string", "axis": "Float64"})

    def _by_run(self, column: str) -> dict[str, Any]:
        """Return the values of a column by run id."""
        return dict(zip(self.table["run_id"], self.table[column], strict=True))
