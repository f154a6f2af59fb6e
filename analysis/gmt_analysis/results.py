"""The numbers and figures of a study, read and computed once, for the report and the notebooks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from gmt.axis import Axis, seed_of
from gmt.errors import UserError
from gmt.studies.differing import differing_code
from gmt.studies.grid import arm_of
from gmt.studies.plan import Plan, PlannedRun
from gmt.tracking.series import read_series
from gmt.tracking.table import DIRTY, changes, read_table
from gmt.verdicts.verdict import Verdict
from gmt_analysis.choices import CHOICE, choice_name
from gmt_analysis.cost_figures import cost_against_size, score_against_cost, time_of_a_step
from gmt_analysis.diagnoses import DiagnosticTable, read_diagnoses
from gmt_analysis.diagnostic_figures import figure_of
from gmt_analysis.figures import score_along
from gmt_analysis.findings import Findings, findings
from gmt_analysis.mask_figures import FACTS, density_against_asked, facts_by_layer, facts_over_steps
from gmt_analysis.primary import primary_verdicts
from gmt_analysis.statistics import summarise

SCORES = ("target_after", "forgetting", "source_perplexity_after", "density", "moved_fraction")
_SIZES = ("optimizer_state_bytes", "num_trained", "num_touched")
COSTS = ("forward_backward_s", "mask_s", "optimizer_s", "train_s", "peak_memory_bytes", *_SIZES)
BEFORE = ("target_before", "source_before", "source_perplexity_before")
_PLANNED = ("model", "task", "axis", "seed")
_NO_WORD = re.compile(r"[^\w.-]+", re.ASCII)  # MLflow takes no other image names, and LaTeX no blanks in those of files
_NAMES = ("arm", "task", "label", "other_label", "model")
_LABELS = {"label": "", "other_label": "other_"}  # column -> prefix of the columns that name its run
_OTHERS = ("source_after", "density_asked", "tokens_per_s")


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
        plan: of the study; its unfinished runs are missing in all numbers.
        dirty: whether runs of a checkout with uncommitted changes count.

    Raises:
        UserError: no run of the study is done, or none that counts.
    """

    def __init__(self, plan: Plan, *, dirty: bool = False):
        self.plan, self.axis, self._dirty = plan, plan.study.along, dirty
        if (self.table["state"] == "done").any():
            return
        name = plan.study.name
        if self.changed:
            raise UserError(f"study {name} has no finished run to report on that is as it ended", *self.changed)
        if number := int((self.table["state"] == DIRTY).sum()):
            raise UserError(
                f"the finished runs of study {name} must be of a committed checkout to be reported, and all {number} "
                "are of one with uncommitted changes; --dirty takes them all the same"
            )
        if plan.tuned:
            spent, all_ = (sum(getattr(tuned, key) for tuned in plan.tuned) for key in ("num_done", "num_runs"))
            raise UserError(
                f"study {name} has no finished run to report on: {spent} of {all_} runs that tune "
                f"{plan.tuned[0].setting} are done"
            )
        raise UserError(f"study {name} has no finished run to report on; run `gmt sweep` with it first")

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row for each run, see gmt.tracking.table; the row of a run that has not begun holds what the plan knows."""
        runs = ((arm_of(p.point, self.axis), p.point.label, p.record) for p in self.plan.comparison)
        table = read_table(runs, axis=self.axis, dirty=self._dirty)
        dtypes = {column: table[column].dtype for column in _PLANNED}
        rows = [_describe(p, self.axis) for p in self.plan.comparison]
        planned = pd.DataFrame(rows, columns=list(dtypes)).astype(dtypes)
        return table.assign(**{column: table[column].fillna(planned[column]) for column in _PLANNED})

    @cached_property
    def table(self) -> pd.DataFrame:
        """`runs` as they are compared; with several models, the name of a task includes the model."""
        task = self.runs["task"] + ", " + self.runs["model"] if self.runs["model"].nunique() > 1 else self.runs["task"]
        table = self.runs.assign(task=task)
        done = table[table["state"] == "done"]
        if (twice := done[done.duplicated([*CHOICE, "seed"], keep=False)]).shape[0]:
            examples = ", ".join(twice["label"].head(2))
            raise UserError(
                f"the runs of study {self.plan.study.name} must differ in arm, model, task, {self.axis.key} or seed "
                f"to be compared, and {len(twice)} don't, such as {examples}"
            )
        return table

    @cached_property
    def done(self) -> list[PlannedRun]:
        """The runs that the numbers are of."""
        ids = set(self.table.loc[self.table["state"] == "done", "run_id"])
        return [planned for planned in self.plan.comparison if planned.run.id in ids]

    @cached_property
    def differing(self) -> list[str]:
        """Sentences on runs that are averaged or compared, and were made by differing code."""
        return differing_code(self.done)

    @cached_property
    def changed(self) -> list[str]:
        """Sentences on runs that count in no number, since their records are not what they were when they ended."""
        return changes(self.table)

    @cached_property
    def unverified(self) -> list[str]:
        """A sentence on the runs that count and were made before digests were written, if there are any."""
        if not (number := sum(not planned.record.has_digests() for planned in self.done)):
            return []
        made = "1 run was" if number == 1 else f"{number} runs were"
        return [f"{made} made before records held digests of their files: a change of these can't be seen."]

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Means over seeds with their intervals; `tokens_per_s` counts the time in optimizer steps alone."""
        speed = self.table.assign(tokens_per_s=self.table["num_tokens"] / self.table["train_s"])
        return summarise(speed, [*SCORES, *COSTS, *BEFORE, *_OTHERS], bootstrapped=("target_after", "forgetting"))

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The answers to the questions that the study declared as primary; empty if it declared none."""
        return primary_verdicts(self.table, self.plan.study.questions, axis=self.axis)

    @cached_property
    def findings(self) -> list[Findings]:
        """What the tests say of everything else: exploratory."""
        study = self.plan.study
        return findings(self.table, axis=self.axis, baseline=study.baseline, margin=study.margin)

    @cached_property
    def series(self) -> pd.DataFrame:
        """What masks did, by step and layer."""
        runs = ((arm_of(p.point, self.axis), p.point.label, p.record) for p in self.done)
        series = read_series(runs, FACTS, axis=self.axis)
        return series.assign(**{name: series["run_id"].map(self._by_run(name)) for name in ("task", "axis")})

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
            own = self.table[[*CHOICE, "run_id"]].merge(by_run, on="run_id").drop_duplicates(CHOICE)
            counts = {column: own[name] / unit for name, (column, unit) in columns.items()}
            operations = own[CHOICE].assign(**counts).reset_index(drop=True)
        return operations.astype({"arm": "string", "task": "string", "axis": "Float64"})

    def _by_run(self, column: str) -> dict[str, Any]:
        """Return the values of a column by run id."""
        return dict(zip(self.table["run_id"], self.table[column], strict=True))

    def score_figures(self) -> dict[str, Figure]:
        """Target and forgetting along the axis, with the arms that do not have it as bands."""
        target, lost = "exact match after training, %", "source score lost, percentage points"
        summary = _drawn(self.summary)
        return {
            "target": score_along(summary, "target_after", along=self.axis, title="Target score", unit=target),
            "forgetting": score_along(summary, "forgetting", along=self.axis, title="Forgetting", unit=lost),
        }

    def mask_figures(self) -> dict[str, Figure]:
        """Density, energy, overlap and movement, where masks were at work."""
        figures = {}
        if (self.table["density_asked"] < 1).any():
            figures["density"] = density_against_asked(_drawn(self.table))
        series = _drawn(self.series)
        for task in dict.fromkeys(series["task"]):
            for name, draw in (("facts", facts_over_steps), ("layers", facts_by_layer)):
                if (figure := draw(series, task=str(task), along=self.axis)) is not None:
                    figures[f"{name}_{_NO_WORD.sub('_', str(task))}"] = figure
        return figures

    def diagnostic_figures(self) -> dict[str, Figure]:
        """A figure of each diagnostic, by its name."""
        figures = {}
        for name, measured in self.diagnoses.items():
            labels = {column: _labels(measured.rows, prefix) for column, prefix in _LABELS.items()}
            if (figure := figure_of(_drawn(measured.rows.assign(**labels)), measured.shown)) is not None:
                figures[f"diagnostic_{name}"] = figure
        return figures

    def cost_figures(self) -> dict[str, Figure]:
        """The parts of a step, the score that the time buys, and, of several sizes, the time against the size."""
        label = "seconds in optimizer steps, mean over seeds"
        figures = {
            "step_time": time_of_a_step(_drawn(self.summary)),
            "pareto": score_against_cost(_drawn(self.summary), cost="train_s", label=label),
        }
        if (counted := self.operations)["tflops_a_run"].notna().any():
            bought = self.summary.merge(counted, on=CHOICE)
            label = "matrix operations of the training, 10^12"
            figures["pareto_operations"] = score_against_cost(_drawn(bought), cost="tflops_a_run", label=label)
        if self.runs["num_parameters"].nunique() > 1:
            figures["size"] = cost_against_size(_drawn(self.runs))
        return figures


def _labels(rows: pd.DataFrame, prefix: str) -> pd.Series[Any]:
    """Return the name of the choice of each row's run, with its task if there are several; None without a run."""
    several = rows["task"].nunique() > 1 if len(rows) else False
    return pd.Series(
        [
            None if arm is None else choice_name(arm, value) + (f", {task}" if several else "")
            for arm, value, task in rows[[f"{prefix}{column}" for column in ("arm", "axis", "task")]].values
        ],
        index=rows.index,
        dtype=object,
    )


def _drawn(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose names matplotlib shows letter by letter: between two $ it reads a formula."""
    names = [name for name in _NAMES if name in rows]
    shown = {name: rows[name].map(lambda text: str(text).replace("$", r"\$"), na_action="ignore") for name in names}
    return rows.assign(**shown)
