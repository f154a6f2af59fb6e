"""The source prompts that a method may be calibrated on; a prompt that the run is evaluated on is never one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gmt.errors import UserError
from gmt.evaluation.context import check_suite
from gmt.tasks.protocol import Benchmark, Reader, Suite
from gmt.tasks.returned_values import are_texts

Suites = Mapping[str, Mapping[str, Suite | Benchmark]]


def calibration_prompts(suites: Suites) -> dict[str, list[str]]:
    """Return source prompts that are not evaluated, by suite; of each suite at most as many as it evaluates.

    Prompts that any suite of the task evaluates are left out, since a method that reads a prompt forgets it less.

    Args:
        suites: the suites of the task, by part (`target` and `source`) and name.

    Raises:
        UserError: a suite's further prompts are no texts.
    """
    all_suites = [suite for part in suites.values() for suite in part.values() if isinstance(suite, Suite)]
    evaluated = {prompt for suite in all_suites for prompt in suite.prompts}
    unevaluated: dict[str, list[str]] = {}
    for name, suite in suites["source"].items():
        if not isinstance(suite, Suite) or suite.further_prompts is None:
            continue
        further = suite.further_prompts()
        if not are_texts(further):
            raise UserError(f"task.source.{name}: further_prompts() must return a list of texts, got {further!r:.80}")
        if prompts := [prompt for prompt in further if prompt not in evaluated]:
            unevaluated[name] = prompts[: len(suite.prompts)]
    return unevaluated


def check_calibration(method: str, task: str, suites: Suites, reader: Reader) -> None:
    """Refuse a task whose source suites have no prompts for a method to be calibrated on.

    Args:
        method: the method's name.
        task: the task's name.
        suites: the suites of the task, by part and name.
        reader: the reader of the model.

    Raises:
        UserError: no source evaluation is a suite of prompts; the suites have no prompts beyond those that the run is
            evaluated on; or one of the other prompts does not fit into the model.
    """
    prompts = calibration_prompts(suites)
    for name, suite in suites["source"].items():
        if name in prompts and isinstance(suite, Suite):
            check_suite(replace(suite, prompts=prompts[name]), reader)
    if prompts:
        return
    why = "its source evaluations are benchmarks, which make their own prompts"
    if any(isinstance(suite, Suite) for suite in suites["source"].values()):
        why = "its source suites have no prompts beyond those that the run is evaluated on"
    raise UserError(
        f"method {method} must have a task with source prompts to be calibrated on, and task {task} has none: {why}"
    )
