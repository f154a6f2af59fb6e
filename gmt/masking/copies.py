"""Makes copies of a masked optimizer refuse to step, since a copy has no mask: torch neither copies nor pickles hooks.

`copy`, pickle and torch.save get the state from `__getstate__`, which they look up on the optimizer before its class.
"""

from collections import OrderedDict
from typing import Any

import torch

_KEY = "__getstate__"
_HOOKS = "_optimizer_step_pre_hooks"


class _State:
    """The `__getstate__` of a masked optimizer: returns torch's state, with a hook that refuses every step."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._optimizer = optimizer

    def __call__(self) -> dict[str, Any]:
        state: dict[str, Any] = type(self._optimizer).__getstate__(self._optimizer)
        hooks = OrderedDict({-1: refuse_to_step})  # torch numbers hooks from 0 on
        return {**state, _HOOKS: hooks, _KEY: self}  # a copy of the copy refuses too


def refuse_to_step(*_: Any) -> None:
    """Raise ValueError; the hook of a copy."""
    raise ValueError(
        "this optimizer is a copy of one with a mask, and copies have none: attach a mask to the copy, "
        "or detach the original's mask before copying"
    )


def mark(optimizer: torch.optim.Optimizer) -> None:
    """Make later copies of an optimizer refuse to step; if it is such a copy itself, let it step again."""
    hooks = optimizer._optimizer_step_pre_hooks
    for key in [key for key, hook in hooks.items() if hook is refuse_to_step]:
        del hooks[key]
    vars(optimizer)[_KEY] = _State(optimizer)


def unmark(optimizer: torch.optim.Optimizer) -> None:
    """Let later copies of an optimizer step again."""
    vars(optimizer).pop(_KEY, None)
