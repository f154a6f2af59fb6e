"""The result of a study in the terminal: the table of means and the answer, after a sweep and on request."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gmt.errors import UserError
from gmt.studies.opened import planned
from gmt.studies.plan import Plan
from gmt.terminal import say

if TYPE_CHECKING:
    from gmt_analysis.results import Results

_MOST_AT_THE_END = 12  # choices of a task after a sweep and a report, besides the baseline


def show_study(overrides: Sequence[str], config_dir: str | None, *, dirty: bool) -> None:
    """Prints every mean of a study and its answer: `gmt show study=NAME`.

    Raises:
        UserError: the study is wrong, or has no finished run.
    """
    from gmt_analysis.results import Results

    plan, _ = planned(overrides, config_dir)
    results = Results(plan, dirty=dirty)
    say(f"study {plan.study.name}: {plan.study.question.strip()}\n")
    say_result(results, most=None)


def conclude(plan: Plan) -> None:
    """Print the means and the answer of a study after its sweep; nothing where no finished run counts."""
    from gmt_analysis.results import Results

    try:
        results = Results(plan)
    except UserError as error:  # e.g. all runs are of a checkout with uncommitted changes
        say(f"no means: {error}")
        return
    say("")
    say_result(results)


def say_result(results: "Results", most: int | None = _MOST_AT_THE_END) -> None:
    """Print the means of a study, best target first, and its answer.

    Args:
        results: of the study.
        most: choices of a task that are shown, besides the baseline; None: all.
    """
    from gmt_analysis.leading import answers_of
    from gmt_analysis.means_text import means_text

    say(means_text(results, most) + "\n")
    for sentence in answers_of(results):
        say(sentence)
