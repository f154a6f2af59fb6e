"""Two warnings of the Trainer are dropped where they are wrong, and all others are shown."""

import logging

import pytest
from torch import nn

from gmt.training.false_alarms import without_false_alarms

TRAINER, UTILS = (logging.getLogger(f"transformers.{name}") for name in ("trainer", "trainer_utils"))
MISSING = "There were missing keys in the checkpoint model loaded: {}."


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Linear(2, 3, bias=False), nn.Linear(2, 3, bias=False)
        self.head.weight = self.embedding.weight


def shown(caplog: pytest.LogCaptureFixture, logger: logging.Logger, text: str) -> bool:
    caplog.clear()
    logger.addHandler(caplog.handler)  # transformers' loggers do not propagate
    logger.warning(text)
    logger.removeHandler(caplog.handler)
    return text in caplog.messages


def test_only_false_alarms_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    tied, other = MISSING.format(["head.weight"]), MISSING.format(["head.weight", "body.weight"])
    times = "mtime may not be reliable on this filesystem, falling back to numerical ordering"
    with without_false_alarms(Tied()):
        assert not shown(caplog, TRAINER, tied)
        assert not shown(caplog, UTILS, times)
        assert shown(caplog, TRAINER, other)
        assert shown(caplog, UTILS, "the disk is full")
    assert shown(caplog, TRAINER, tied)
    with without_false_alarms(nn.Linear(1, 1)):
        assert shown(caplog, TRAINER, tied)
