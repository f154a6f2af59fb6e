"""Checks the runs of a sweep before the first one starts: their examples, evaluations, methods and merges."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from gmt.errors import UserError
from gmt.garbage import no_collections
from gmt.merges.protocol import ChoosesParents
from gmt.methods.protocol import fits_every_model
from gmt.runs.build import Builder, Run

if TYPE_CHECKING:
    from gmt.runs.prepare import Prepared


def faults_of_configs(configs: Sequence[Mapping[str, Any]], note_num_checked: Callable[[int], None]) -> list[str]:
    """Return what `faults_of_runs` returns for the runs of resolved configs; called in a worker."""
    builder = Builder()
    return faults_of_runs([builder.build(config) for config in configs], note_num_checked)


def _note_nothing(num_checked: int) -> None:
    """Do nothing."""


def faults_of_runs(runs: Sequence[Run], note_num_checked: Callable[[int], None] = _note_nothing) -> list[str]:
    """Make the examples and suites of all runs, and try their methods and merges without weights.

    The first call in a process imports torch and transformers, which takes seconds.

    Args:
        runs: all runs of the sweep.
        note_num_checked: called with the number of checked runs after each of them.

    Returns:
        A sentence for each fault that would stop a run.
    """
    with no_collections():
        from gmt.runs.prepare import prepare

    faults: dict[str, None] = {}
    by_id = {run.id: run for run in runs}
    for number, run in enumerate(runs, 1):
        try:
            with nullcontext() if run is not runs[0] else no_collections():  # the first one imports libraries
                prepared = prepare(run)
            _try_method(run, prepared)
            _check_merge(run, prepared, by_id)
        except UserError as error:
            faults |= dict.fromkeys(error.sentences)
        note_num_checked(number)
    return list(faults)


def _check_merge(run: Run, prepared: "Prepared", by_id: Mapping[str, Run]) -> None:
    """Check that a merge's validation questions can be made, and that its parents' bases fit, if it needs them.

    Raises:
        UserError: the questions are wrong, or the base does not exist.
    """
    if isinstance(run.merge, ChoosesParents):
        from gmt.runs.validation import validation_suites

        validation_suites(run.merge.validation, prepared)
    if run.merge is not None and run.merge.takes_other_base:
        from gmt.runs.parent_weights import bases  # imports torch and transformers

        bases(run, by_id)


def _try_method(run: Run, prepared: "Prepared") -> None:
    """Try a run's method without weights; runs with the same result share one trial (gmt/runs/method_check.py).

    Raises:
        UserError: the method can't work with the model or the examples.
    """
    if run.merge is None and not fits_every_model(run.method):
        with no_collections():
            from gmt.runs.method_check import check_method_on_skeleton  # importing a model's code takes seconds

        check_method_on_skeleton(run, prepared)
