"""Why a run failed, and what is done about it. Imports no torch: a driver asks too."""

from collections.abc import Mapping

from gmt.errors import Diverged, UserError
from gmt.machine_faults import is_out_of_gpu_memory, machine_fault

OF_PARENT = "parent"
"""The kind of failure of a merge whose parent has failed; the merge itself never began."""

# How often a run is begun again, from its last checkpoint, after a failure of each kind; None: without limit.
# What isn't named here is never tried again: it would end the same way.
RETRIES: Mapping[str, int | None] = {
    "infrastructure": 2,  # a worker that died, host memory, a full disk, a hang
    "preempted": None,  # the machine was taken away: nobody's fault
}


def kind_of(error: BaseException) -> str:
    """Return the kind of a failure that a run raised; its cause decides, not what a library made of it.

    Returns:
        `diverged`; `memory` for a GPU's memory that no micro-batch fits in; `infrastructure` for what the machine did;
        `user` for what was asked wrongly; `error` for anything else, which is a bug in a plug-in or here.
    """
    if isinstance(error, Diverged):
        return "diverged"
    if is_out_of_gpu_memory(error):
        return "memory"
    if machine_fault(error) is not None:
        return "infrastructure"
    return "user" if isinstance(error, UserError) else "error"


def is_tried_again(kind: str, times_before: int) -> bool:
    """Whether a run is begun again after a failure.

    Args:
        kind: of the failure.
        times_before: how many failures of this kind the sweep has already answered by beginning again.
    """
    if kind not in RETRIES:
        return False
    limit = RETRIES[kind]
    return limit is None or times_before < limit
