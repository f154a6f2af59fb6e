"""The first, cold steps of each attempt are in no mean of a step's times, and in the time of all steps."""

import json
from pathlib import Path
from typing import Any

import pytest

from gmt.training import meter as meters
from gmt.training.checkpoints import METER_SUMS
from gmt.training.meter import NUM_COLD_STEPS, Meter


class Facts:
    """A method at work that masks for a tenth of a second."""

    def num_trained(self) -> int:
        return 1

    def facts(self) -> dict[str, float]:
        return {"density": 0.5, "mask_seconds": 0.1}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def stepped(num_steps: int, resume: Path | None, clock: Clock) -> Meter:
    """Steps whose forward and backward take 10 s while they are cold and 1 s after, and whose optimizer takes 0.4."""
    attachment: Any = Facts()
    meter = Meter(attachment, lambda *_: None, resume)
    for step in range(num_steps):
        meter.on_step_begin()
        clock.now += 10 if step < NUM_COLD_STEPS else 1
        meter.on_pre_optimizer_step()
        clock.now += 0.5
        meter.on_optimizer_step()
    return meter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(meters, "_now", clock)
    return clock


def test_cold_steps_are_left_out_of_the_means(clock: Clock) -> None:
    meter = stepped(20, None, clock)
    means, num_cold = meter.mean_seconds(20)
    assert num_cold == NUM_COLD_STEPS
    assert means == pytest.approx({"forward_backward": 1, "mask": 0.1, "optimizer": 0.4})
    assert meter.seconds() == pytest.approx(10 * NUM_COLD_STEPS + 20 - NUM_COLD_STEPS + 20 * 0.5)
    assert meter.sums["density"] == 10


def test_each_attempt_has_cold_steps(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / METER_SUMS).write_text(json.dumps(stepped(12, None, clock).sums))
    meter = stepped(8, tmp_path, clock)
    assert meter.mean_seconds(20) == (pytest.approx({"forward_backward": 1, "mask": 0.1, "optimizer": 0.4}), 6)
    assert meter.seconds() == pytest.approx(10 * 6 + 14 + 20 * 0.5)


def test_a_training_of_cold_steps_alone_has_their_mean(clock: Clock) -> None:
    means, num_cold = stepped(2, None, clock).mean_seconds(2)
    assert num_cold == 0
    assert means["forward_backward"] == pytest.approx(10)


def test_a_checkpoint_from_before_the_number_is_gone_on_from(clock: Clock, tmp_path: Path) -> None:
    earlier = {"forward_backward": 30.0, "mask": 1.0, "optimizer": 4.0, "density": 5.0}
    (tmp_path / METER_SUMS).write_text(json.dumps(earlier))
    meter = stepped(8, tmp_path, clock)
    assert meter.mean_seconds(18) == (pytest.approx({"forward_backward": 1, "mask": 0.1, "optimizer": 0.4}), 13)
    assert meter.seconds() == pytest.approx(35 + 10 * 3 + 5 + 8 * 0.5)
