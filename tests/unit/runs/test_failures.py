"""Failures are told apart, and answered by their kind."""

import errno

import pytest
import torch

from gmt.errors import Diverged, UserError
from gmt.runs.failures import is_retried, kind_of


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UserError("no"), "user"),
        (Diverged("nan"), "diverged"),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "infrastructure"),
        (OSError(errno.EIO, "Input/output error"), "infrastructure"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "infrastructure"),
        (ConnectionResetError(), "infrastructure"),
        (MemoryError(), "infrastructure"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "error"),
        (ZeroDivisionError(), "error"),
        (KeyError("x"), "error"),
    ],
)
def test_the_kind_of_an_error(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def test_only_what_may_pass_is_tried_again() -> None:
    assert [is_retried("infrastructure", n) for n in range(4)] == [True, True, False, False]
    assert is_retried("preempted", 10_000)
    assert not any(is_retried(kind, 0) for kind in ("user", "diverged", "error", "memory"))
