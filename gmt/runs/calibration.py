"""The source prompts that a method may be calibrated on: none that its run is evaluated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gmt.errors import UserError
from gmt.evaluation.context import check_suite
from gmt.tasks.protocol import Benchmark, Reader, Suite

Suites = Mapping[str, Mapping[str, Suite | Benchmark]]


def calibration_prompts(suites: Suites) -> dict[str, list[str]]:
    """Return other prompts of the source suites, by the suite's name, at most as many as the suite has.

    A prompt that any suite of the task asks is left out, since a method that had seen it would forget it less.

    Args:
        suites: of the task, those of `target` and of `source`.
    """
    all_suites = [suite for part in suites.values() for suite in part.values() if isinstance(suite, Suite)]
    evaluated = {prompt for suite in all_suites for prompt in suite.prompts}
    found: dict[str, list[str]] = {}
    for name, suite in suites["source"].items():
        others: Sequence[str] = suite.others() if isinstance(suite, Suite) and suite.others is not None else []
        if isinstance(suite, Suite) and (new := [prompt for prompt in others if prompt not in evaluated]):
            found[name] = new[: len(suite.prompts)]
    return found


def check_calibration(method: str, task: str, suites: Suites, reader: Reader) -> None:
    """Refuse a task whose source suites have no prompts for a method to be calibrated on.

    Args:
        method: its name.
        task: its name.
        suites: of the task.
        reader: of the model.

    Raises:
        UserError: the source evaluations ask in their own way; their suites have no prompts but those that the run is
            evaluated on; or the model can't be given another prompt.
    """
    prompts = calibration_prompts(suites)
    for name, suite in suites["source"].items():
        if name in prompts and isinstance(suite, Suite):
            check_suite(replace(suite, prompts=prompts[name]), reader)
    if prompts:
        return
    why = "its source evaluations ask in their own way"
    if any(isinstance(suite, Suite) for suite in suites["source"].values()):
        why = "its source suites have no prompts but those that the run is evaluated on"
    raise UserError(
        f"method {method} must have a task with source prompts to be calibrated on, and task {task} has none: {why}"
    )
