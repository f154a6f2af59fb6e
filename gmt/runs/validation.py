"""Makes and checks the questions by which a merge chooses among its parents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gmt.errors import UserError
from gmt.evaluation.context import check_suite
from gmt.runs.plug_in_calls import check_benchmark
from gmt.runs.prepare import Prepared
from gmt.tasks.evaluations import make_suites
from gmt.tasks.protocol import Benchmark, Suite
from gmt.tasks.returned_values import faults_of_suite

_SETTING = "merge.validation"


def validation_suites(validation: Any, prepared: Prepared) -> Mapping[str, Suite | Benchmark]:
    """Return the validation suites and benchmarks of a merge, checked.

    Raises:
        UserError: a question does not fit the model, or the target has it too.
    """
    suites = make_suites(_SETTING, validation)
    targets = (suite for suite in prepared.suites["target"].values() if isinstance(suite, Suite))
    prompts = {prompt for suite in targets for prompt in suite.prompts}
    for name, suite in suites.items():
        if isinstance(suite, Benchmark):
            check_benchmark(suite, prepared.reader)
            continue
        if faults := list(faults_of_suite(suite)):
            raise UserError(*(f"{_SETTING}.{name}: {fault}" for fault in faults))
        check_suite(suite, prepared.reader)
        if (shared := len(prompts.intersection(suite.prompts))) > 0:
            raise UserError(
                f"{_SETTING}.{name} must have no question of the target, which evaluates the chosen merge, but "
                f"{shared} of its {len(suite.prompts)} questions are in the target too"
            )
    return suites
