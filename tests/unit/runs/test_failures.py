"""Failures are told apart, and answered by their kind."""

import errno

import pytest
import torch

from gmt.errors import Diverged, UserError
from gmt.runs.failures import is_retried, kind_of
from gmt.runs.recorded_failure import failure_in_words, without_command


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


def test_a_sentence_of_a_run_whose_record_does_not_stay_names_no_command() -> None:
    sentence = failure_in_words("run 1a2b failed", KeyError("x; y"), "1a2b")
    assert sentence == "run 1a2b failed: KeyError: 'x; y'; `gmt show 1a2b` shows the traceback"
    assert without_command(sentence) == "run 1a2b failed: KeyError: 'x; y'"
    assert without_command("another sentence") == "another sentence"
