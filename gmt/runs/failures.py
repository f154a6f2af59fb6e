"""The kinds of failure of a run, and which of them are retried. Imports no torch, since the driver imports it."""

from collections.abc import Mapping

from gmt.errors import Diverged, UserError
from gmt.machine_faults import is_out_of_gpu_memory, machine_fault

OF_PARENT = "parent"
"""The kind of failure of a merge whose parent has failed; such a merge never begins."""

# How often a run is retried, from its last checkpoint, after a failure of each kind; None: without limit.
# Other kinds are not retried, since they would end the same way.
RETRIES: Mapping[str, int | None] = {
    "infrastructure": 2,  # a worker that died, host memory, a full disk, a hang
    "preempted": None,  # a scheduler took the machine away, so the run itself has no fault
}


def kind_of(error: BaseException) -> str:
    """Return the kind of a failure from the error that a run raised, or from its causes, since libraries wrap errors.

    Returns:
        `diverged`; `memory` if no micro-batch fits into the GPU's memory; `infrastructure` for a fault of the machine;
        `user` for a wrong setting; `error` for anything else, which is a bug in a plug-in or here.
    """
    if isinstance(error, Diverged):
        return "diverged"
    if is_out_of_gpu_memory(error):
        return "memory"
    if machine_fault(error) is not None:
        return "infrastructure"
    return "user" if isinstance(error, UserError) else "error"


def is_retried(kind: str, times_before: int) -> bool:
    """Return whether a run is retried after a failure.

    Args:
        kind: the kind of failure.
        times_before: the number of the sweep's earlier retries of this run after this kind of failure.
    """
    if kind not in RETRIES:
        return False
    limit = RETRIES[kind]
    return limit is None or times_before < limit
