"""The questions by which a merge chooses among its parents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gmt.errors import UserError
from gmt.evaluation.context import check_suite
from gmt.runs.prepare import Prepared
from gmt.tasks.evaluations import made
from gmt.tasks.protocol import Benchmark, Suite

_SETTING = "merge.validation"


def validation_suites(validation: Any, prepared: Prepared) -> Mapping[str, Suite | Benchmark]:
    """Make what a merge asks, once it is checked.

    Raises:
        UserError: a question can't be asked of the model, or the target asks it too.
    """
    suites = made(_SETTING, validation)
    targets = (each for each in prepared.suites["target"].values() if isinstance(each, Suite))
    asked = {prompt for suite in targets for prompt in suite.prompts}
    for name, suite in suites.items():
        if isinstance(suite, Benchmark):
            suite.check(prepared.reader)
            continue
        check_suite(suite, prepared.reader)
        if (shared := len(asked.intersection(suite.prompts))) > 0:
            raise UserError(
                f"{_SETTING}.{name} must ask other questions than the target, which would judge what they chose, and "
                f"shares {shared} of {len(suite.prompts)} with it"
            )
    return suites
