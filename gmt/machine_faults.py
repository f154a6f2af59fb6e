"""Distinguishes faults of the machine (a disk, network, device or server failed, and may recover) from user mistakes.

The cause decides, however deep it is in the chain, since libraries wrap it in their own errors. Imports no library.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from gmt.errors import MachineFault, UserError

# Without the numbers of wrong paths and missing permissions (ENOENT, EACCES, ENOTDIR, EISDIR, EINVAL, ...).
ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        # disks and file systems; EROFS since Linux remounts a broken disk read-only
        *("ENOSPC", "EDQUOT", "EIO", "EREMOTEIO", "ESTALE", "EROFS", "EUCLEAN", "ENXIO", "ENODEV", "EBUSY", "ENOLCK"),
        # memory and the tables of processes and files
        *("ENOMEM", "ENOBUFS", "EMFILE", "ENFILE", "EAGAIN", "EINTR"),
        # networks
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENOTCONN", "ESHUTDOWN", "EPIPE"),
        *("ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EADDRNOTAVAIL", "EPROTO", "ECOMM", "ENOLINK"),
    )
    if hasattr(errno, name)
)
# By name, with subclasses: the libraries may be missing, and torch's classes depend on its build.
_NAMES = frozenset(
    {
        *("DistBackendError", "DistNetworkError", "DistStoreError", "AcceleratorError"),  # torch
        *("TransportError", "RequestException", "ClientConnectionError", "ClientPayloadError"),  # HTTP clients
        *("IncompleteRead", "ProtocolError", "MaxRetryError", "gaierror", "XetDownloadError"),
        *("ReadTimeoutError", "ConnectTimeoutError", "NewConnectionError", "ProxyError"),  # urllib3's, unwrapped
    }
)
_NO_FAULT = frozenset({"InvalidURL", "UnsupportedProtocol", "MissingSchema", "InvalidSchema"})  # subclasses of these
_STATUSES = frozenset({408, 425, 429})  # HTTP statuses that may differ next time, like those from 500 on
# A connection that was cut within TLS: OSErrors whose number is TLS's own.
_TLS_ERRORS = frozenset({"SSLEOFError", "SSLZeroReturnError", "SSLSyscallError"})
# Libraries that pass on only the text of an error: safetensors, tokenizers, Arrow, CUDA, HIP, gloo, torch, SQLite.
_ERRNO_IN_TEXT = re.compile(r"(?:os error |\[?errno )(\d+)", re.IGNORECASE)
_ERRNOS_IN_TEXT = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.ESTALE,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
)
_WORDS = re.compile(
    "|".join(re.escape(os.strerror(number)) for number in _ERRNOS_IN_TEXT)
    + r"|(?:CUDA|HIP) (?:driver |initialization )?error|(?:CUDA|HIP)-capable device"
    r"|(?:CU|HIP|ROC)(?:BLAS|DNN|SOLVER|SPARSE)_STATUS_|MIOPENSTATUS"
    r"|NCCL error|gloo/transport|DefaultCPUAllocator|can't start new thread"
    r"|database or disk is full|disk I/O error|PytorchStreamWriter failed writing|unexpected pos \d+ vs \d+"
    r"|Consistency check failed: file should be of size",
    re.IGNORECASE,
)
_BUGS = re.compile(
    r"device-side assert|no kernel image|invalid device function"
    r"|(CU|HIP)(BLAS|SOLVER|SPARSE)_STATUS_(INVALID_VALUE|NOT_SUPPORTED)",
    re.IGNORECASE,
)  # words of CUDA and HIP for bugs
# Errors about values may quote any text: a row of data that holds a log message is no fault of the disk.
_VALUE_ERRORS = (ValueError, LookupError, TypeError, AssertionError, ArithmeticError)
_OFFLINE = re.compile(r"OfflineModeIsEnabled|HF_HUB_OFFLINE|HF_DATASETS_OFFLINE|offline mode is enabled", re.IGNORECASE)


def causes(error: BaseException, *, hidden: bool = False) -> Iterator[BaseException]:
    """Yield an error, then the error that caused it or that was being handled when it was raised, back to the first.

    Args:
        error: the error that was raised last.
        hidden: whether to include errors that `raise ... from None` hides from a traceback.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        yield current
        seen.add(id(current))
        leave_out = current.__suppress_context__ and not hidden
        current = current.__cause__ or (None if leave_out else current.__context__)


def names_of(error: BaseException) -> set[str]:
    """Return the names of an error's class and of its base classes."""
    return {base.__name__ for base in type(error).__mro__}


def machine_fault(error: BaseException, *, hidden: bool = False) -> BaseException | None:
    """Return the fault of the machine that caused an error; None if no such fault did.

    Forbidding access to the hub (HF_HUB_OFFLINE) is a setting, and not a fault of the network.

    Args:
        error: the error that was raised last.
        hidden: see `causes`.
    """
    chain = list(causes(error, hidden=hidden))
    is_offline = any(_OFFLINE.search(f"{type(link).__name__}: {link}") for link in chain)
    return next((link for link in chain if _is_fault(link, is_offline)), None)


def _is_fault(error: BaseException, is_offline: bool) -> bool:
    names, text = names_of(error), str(error)
    if _BUGS.search(text) or isinstance(error, UserError):  # the sentence of a UserError may quote its cause
        return False
    if "MachineFault" in names or isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in ERRNOS or bool(names & (_TLS_ERRORS | {"gaierror"}))
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status >= 500 or status in _STATUSES
    if isinstance(error, ConnectionError | TimeoutError) or (names & _NAMES and not names & _NO_FAULT):
        return not is_offline
    if isinstance(error, _VALUE_ERRORS):
        return False
    return bool(_WORDS.search(text)) or any(int(number) in ERRNOS for number in _ERRNO_IN_TEXT.findall(text))


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Return whether a GPU ran out of memory; torch has several error classes for it."""
    return any("OutOfMemoryError" in names_of(cause) for cause in causes(error))


@contextmanager
def machine_faults_first(subject: str) -> Iterator[None]:
    """Turn faults of the machine into a MachineFault that names what could not be read.

    Use it inside a `try` whose `except` turns a library's errors into sentences, so that these faults are not taken for
    the user's mistakes.

    Args:
        subject: the source that is read, in the user's words, e.g. `model.path='...'`.

    Raises:
        MachineFault: the disk, the network or the device failed. An OutOfMemoryError of a GPU is not converted.
    """
    try:
        yield
    except (UserError, MachineFault):
        raise
    except Exception as error:  # libraries wrap faults of the machine in any class; other errors are raised again
        fault = machine_fault(error, hidden=True)  # the library datasets hides why it could not reach the hub
        if fault is None or is_out_of_gpu_memory(error):
            raise
        reason = " ".join(str(fault).split())[:400]
        raise MachineFault(f"{subject} can't be read now: {type(fault).__name__}: {reason}") from error
