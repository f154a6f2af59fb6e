"""A worker that goes on to its next run does not hold the last one's memory."""

import gc
import sys
import threading
import weakref
from typing import Any

import psutil
import pytest
import torch

from gmt.training.memory import give_back, spare_libraries

HELD = 240_000_000


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="what glibc keeps is glibc's")
def test_what_a_thread_leaves_behind_goes_back_to_the_system() -> None:
    def resident() -> int:
        return int(psutil.Process().memory_info().rss)

    def train() -> None:
        cycle: dict[str, Any] = {"tensors": [torch.ones(15_000) for _ in range(HELD // 60_000)]}
        cycle["itself"] = cycle
        last.append(torch.ones(15_000))  # what outlives a run, e.g. a cache, keeps the thread's heap from shrinking

    last: list[torch.Tensor] = []
    gc.collect()
    before = resident()
    gc.disable()  # it may come at any time or not
    try:
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
        assert resident() - before > 0.9 * HELD
        give_back()
    finally:
        gc.enable()
    assert resident() - before < 0.1 * HELD


def test_what_runs_leave_behind_is_collected_though_the_libraries_are_spared() -> None:
    class Trainer:
        pass

    spare_libraries()
    assert gc.get_freeze_count() > 0
    trainer = Trainer()
    trainer.itself = trainer  # type: ignore[attr-defined]
    left = weakref.ref(trainer)
    del trainer
    give_back()
    assert left() is None
