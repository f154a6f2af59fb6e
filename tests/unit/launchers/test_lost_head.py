"""A sweep ends when the head of its Ray is lost; after a stop it first waits for the runs that are at work."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from gmt_launchers import ray_tune
from gmt_launchers.ray_tune import _wait_for

from gmt.errors import RunFailed


class Owner:
    """An owner whose job ends after a number of looks at it."""

    def __init__(self, *, is_stopped: bool, num_looks: int):
        self._is_stopped, self.num_looks = is_stopped, num_looks

    def is_stopped(self) -> bool:
        return self._is_stopped

    def is_working(self) -> bool:
        self.num_looks -= 1
        return self.num_looks >= 0


def wait_for(owner: Owner, must_end: bool = False) -> None:
    """Wait for a call of Ray that never returns, as it does without the head."""
    queue: Any = SimpleNamespace(is_stopped=owner.is_stopped, abandon=lambda: None)
    head: Any = SimpleNamespace(lost="the head is lost")
    waiting: Any = SimpleNamespace(is_silent=False)
    ends = threading.Event()
    if must_end:
        ends.set()
    never: Any = threading.Event().wait
    _wait_for(never, queue, owner, head, waiting, ends)  # type: ignore[arg-type]  # the rest of an owner is not used


def test_the_sweep_fails_with_the_reason() -> None:
    with pytest.raises(RunFailed, match="the head is lost"):
        wait_for(Owner(is_stopped=False, num_looks=0))


def test_a_stopped_sweep_ends_in_order_once_no_run_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_tune, "_POLL_S", 0.01)
    owner = Owner(is_stopped=True, num_looks=3)
    wait_for(owner)
    assert owner.num_looks == -1


def test_a_stopped_sweep_does_not_wait_for_ever_for_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_tune, "_POLL_S", 0.01)
    monkeypatch.setattr(ray_tune, "_LEAVE_S", 0.05)
    with pytest.raises(RunFailed, match="the head is lost"):
        wait_for(Owner(is_stopped=True, num_looks=1_000_000))


def test_a_sweep_that_must_end_at_once_waits_for_no_run() -> None:
    owner = Owner(is_stopped=True, num_looks=3)
    wait_for(owner, must_end=True)
    assert owner.num_looks == 3
