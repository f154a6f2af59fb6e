"""Drops warnings of transformers' Trainer that are wrong for our trainings."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_LOGGERS = ("transformers.trainer", "transformers.trainer_utils")
_MISSING = "There were missing keys in the checkpoint model loaded: "
_TIMES = "mtime may not be reliable on this filesystem"


@contextmanager
def without_false_alarms(model: nn.Module) -> Iterator[None]:
    """Within the block, drop two warnings.

    One says that a checkpoint lacks weights, though these are tied to weights that it has. The other blames the file
    system if two checkpoints are less than a second old; the Trainer then orders them by their steps.
    """
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied -= {name for name, _ in model.named_parameters()}

    def is_right(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_about_tied = text.startswith(_MISSING) and tied.issuperset(re.findall(r"'([^']*)'", text))
        return not is_about_tied and not text.startswith(_TIMES)

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(is_right)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_right)
