"""Finds the real steps of an optimizer: `torch.optim.Optimizer` calls its step hooks in any loop."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from gmt.masking import copies


class StepHook:
    """Calls one function before and one after each real step of an optimizer.

    A step inside a step, where an optimizer's `step` calls its parent's, does not count.

    Args:
        optimizer: a torch.optim.Optimizer.
        before: called when the gradients are computed: as the step begins, or after the step's closure.
        after: called as the step ends.

    Raises:
        ValueError: at a later step that gets a GradScaler, or evaluates its closure twice.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, before: Callable[[], None], after: Callable[[], None]):
        self._optimizer, self._before, self._after = optimizer, before, after
        self._stepping: FrameType | None = None  # of torch's call of the hooks, while the step runs
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        copies.mark(optimizer)

    def remove(self) -> None:
        """Leave the optimizer as it was."""
        for handle in self._handles:
            handle.remove()
        copies.unmark(self._optimizer)

    def _before_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        caller = sys._getframe(1)
        if _is_running(self._stepping, caller):
            return None  # an optimizer's step that calls its parent's: torch calls the hooks of both
        if kwargs.get("grad_scaler") is not None:
            raise ValueError(
                "a step with grad_scaler= hides the gradients' scale from the mask: unscale them before it"
            )
        self._stepping = caller
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._before()
            return None
        calls = 0

        def watched_closure() -> Any:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise ValueError("this optimizer evaluates the gradient several times in a step: no one mask fits it")
            loss = closure()
            self._before()
            return loss

        if len(args) > 1:
            return (args[0], watched_closure, *args[2:]), kwargs
        return args, {**kwargs, "closure": watched_closure}

    def _after_step(self, *_: Any) -> None:
        if sys._getframe(1) is self._stepping:
            self._stepping = None
            self._after()


def is_hooked(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer has a StepHook."""
    hooks = optimizer._optimizer_step_pre_hooks.values()
    return any(isinstance(getattr(hook, "__self__", None), StepHook) for hook in hooks)


def _is_running(frame: FrameType | None, innermost: FrameType) -> bool:
    """Return whether a call is still under way; the call of a step that raised is not."""
    at: FrameType | None = innermost if frame is not None else None
    while at is not None and at is not frame:
        at = at.f_back
    return at is not None
