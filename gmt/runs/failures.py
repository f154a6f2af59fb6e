"""Why a run failed, and what is done about it. Imports no torch: a driver asks too."""

import errno
from collections.abc import Mapping

from gmt.errors import Diverged, UserError

# How often a run is begun again, from its last checkpoint, after a failure of each kind; None: without limit.
# What isn't named here is never tried again: it would end the same way.
RETRIES: Mapping[str, int | None] = {
    "infrastructure": 2,  # a worker that died, host memory, a full disk, a hang
    "preempted": None,  # the machine was taken away: nobody's fault
}

_OF_THE_MACHINE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.ESTALE,
    errno.EROFS,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
}
# By name: torch may not be there, and which of them exist depends on its build.
_OF_THE_MACHINE_BY_NAME = {"DistBackendError", "DistNetworkError", "DistStoreError", "AcceleratorError"}


def kind_of(error: BaseException) -> str:
    """The kind of a failure that a run raised.

    Returns:
        `user` for what was asked wrongly, `diverged`, `memory` for a GPU's memory that no micro-batch fits in,
        `infrastructure` for what the machine did, `error` for anything else, which is a bug in a plug-in or here.
    """
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, UserError):
        return "user"
    names = {kind.__name__ for kind in type(error).__mro__}
    if "OutOfMemoryError" in names:
        return "memory"
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return "infrastructure"
    if isinstance(error, ConnectionError | TimeoutError | MemoryError) or names & _OF_THE_MACHINE_BY_NAME:
        return "infrastructure"
    # safetensors and torch wrap what the operating system said into errors of their own; so does gloo what a worker
    # found when another one died
    text = str(error)
    signs = ("No space left on device", "os error 28", "gloo/transport")
    return "infrastructure" if any(sign in text for sign in signs) else "error"


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
