"""Ctrl-C while a sweep is checked always ends it."""

import os
import signal

import pytest

from gmt.studies.stopping import no_lost_interrupt
from tests.processes import sigint_as_in_a_terminal


class PressesCtrlC:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")  # what Python drops
def test_ctrl_c_in_a_destructor_ends_the_block() -> None:
    reached = []

    def work() -> None:
        PressesCtrlC()
        reached.append("the end")

    with sigint_as_in_a_terminal():
        with pytest.raises(KeyboardInterrupt), no_lost_interrupt():
            work()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert reached == ["the end"]


def test_a_block_without_ctrl_c_ends_as_usual() -> None:
    with sigint_as_in_a_terminal(), no_lost_interrupt():
        pass
