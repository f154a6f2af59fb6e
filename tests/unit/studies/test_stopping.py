"""Ctrl-C and SIGTERM always end a sweep that is being checked, even in a destructor."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gmt.studies.stopping import no_lost_interrupt
from tests.processes import sigint_as_in_a_terminal


class SignalsWhenDestroyed:
    """Sends a signal to this process when the object is destroyed."""

    def __init__(self, number: signal.Signals):
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.filterwarnings(
    "ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning"
)  # Python drops errors in destructors
def test_a_signal_in_a_destructor_raises_keyboard_interrupt_at_the_end_of_the_block(number: signal.Signals) -> None:
    events = []

    def run_destructor() -> None:
        SignalsWhenDestroyed(number)
        events.append("after the destructor")

    with sigint_as_in_a_terminal():
        before = signal.getsignal(number)
        with pytest.raises(KeyboardInterrupt), no_lost_interrupt():
            run_destructor()
        assert signal.getsignal(number) == before
    assert events == ["after the destructor"]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None], ids=["ignored", "handled"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_is_handled_or_ignored_already_keeps_its_handler(number: signal.Signals, handler: Any) -> None:
    before = signal.signal(number, handler)
    try:
        with no_lost_interrupt():
            assert signal.getsignal(number) is handler
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_the_block_changes_no_handler_in_another_thread() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def handler_in_block() -> Any:
        with no_lost_interrupt():
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as other:
        assert other.submit(handler_in_block).result() == before


def test_without_a_signal_the_block_raises_nothing_and_restores_the_handlers() -> None:
    with sigint_as_in_a_terminal():
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        with no_lost_interrupt():
            within = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert not set(within) & set(before)
