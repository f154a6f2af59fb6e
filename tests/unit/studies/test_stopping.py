"""Ctrl-C and SIGTERM while a sweep is checked always end it."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gmt.studies.stopping import no_lost_interrupt
from tests.processes import sigint_as_in_a_terminal


class Sends:
    """Sends its process a signal when it is destroyed."""

    def __init__(self, number: signal.Signals):
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")  # what Python drops
def test_a_signal_in_a_destructor_ends_the_block(number: signal.Signals) -> None:
    reached = []

    def work() -> None:
        Sends(number)
        reached.append("the end")

    with sigint_as_in_a_terminal():
        before = signal.getsignal(number)
        with pytest.raises(KeyboardInterrupt), no_lost_interrupt():
            work()
        assert signal.getsignal(number) == before
    assert reached == ["the end"]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None], ids=["ignored", "handled"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_somebody_handles_or_ignores_stays_as_it_is(number: signal.Signals, handler: Any) -> None:
    before = signal.signal(number, handler)
    try:
        with no_lost_interrupt():
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_in_another_thread_the_block_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def handler_within() -> Any:
        with no_lost_interrupt():
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as other:
        assert other.submit(handler_within).result() == before


def test_a_block_without_ctrl_c_ends_as_usual() -> None:
    with sigint_as_in_a_terminal(), no_lost_interrupt():
        pass
