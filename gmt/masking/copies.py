"""Copies of a masked optimizer refuse to step: torch copies and pickles no hooks, so that a copy has no mask.

`copy`, pickle and torch.save all ask the optimizer for its state, and look for `__getstate__` on it before its class.
"""

from collections import OrderedDict
from typing import Any

import torch

_KEY = "__getstate__"
_HOOKS = "_optimizer_step_pre_hooks"


class _State:
    """The `__getstate__` of a masked optimizer: returns torch's own state, with a hook that refuses to step."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._optimizer = optimizer

    def __call__(self) -> dict[str, Any]:
        state: dict[str, Any] = type(self._optimizer).__getstate__(self._optimizer)
        hooks = OrderedDict({-1: refuse_to_step})  # torch numbers hooks from 0 on
        return {**state, _HOOKS: hooks, _KEY: self}  # a copy of the copy refuses too


def refuse_to_step(*_: Any) -> None:
    """Raise ValueError: the hook of a copy."""
    raise ValueError(
        "this optimizer is a copy of one with a mask, and copies have none: attach a mask to the copy, "
        "or detach the original's before copying"
    )


def mark(optimizer: torch.optim.Optimizer) -> None:
    """Makes later copies of an optimizer refuse to step; one that is such a copy may step from now on."""
    hooks = optimizer._optimizer_step_pre_hooks
    for key in [key for key, hook in hooks.items() if hook is refuse_to_step]:
        del hooks[key]
    vars(optimizer)[_KEY] = _State(optimizer)


def unmark(optimizer: torch.optim.Optimizer) -> None:
    """Lets later copies step, as those of any optimizer."""
    vars(optimizer).pop(_KEY, None)
