"""Calls functions before and after the real steps of an optimizer, by torch's step hooks, which work in any loop."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from gmt.masking import copies


class StepHook:
    """Calls one function before and one after each real step of an optimizer.

    If an optimizer's `step` calls the `step` of its base class, both together are one step.

    Args:
        optimizer: a torch.optim.Optimizer.
        before: called when the step's gradients are known: at its beginning or, if it has a closure, after the closure.
        after: called at the end of the step.

    Raises:
        ValueError: later, at a step that gets a GradScaler as an argument or evaluates its closure twice.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, before: Callable[[], None], after: Callable[[], None]):
        self._optimizer, self._before, self._after = optimizer, before, after
        self._stepping: FrameType | None = None  # torch's frame that calls the hooks, while a step runs
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        copies.mark(optimizer)

    def remove(self) -> None:
        """Remove the hooks, and let copies of the optimizer step again."""
        for handle in self._handles:
            handle.remove()
        copies.unmark(self._optimizer)

    def _before_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        caller = sys._getframe(1)
        if _is_running(self._stepping, caller):
            return None  # `step` has called the `step` of its base class: torch calls the hooks for both
        if kwargs.get("grad_scaler") is not None:
            raise ValueError(
                "a step with grad_scaler= hides the gradients' scale from the mask: unscale the gradients before the "
                "step"
            )
        self._stepping = caller
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._before()
            return None
        num_calls = 0

        def closure_and_before() -> Any:
            nonlocal num_calls
            num_calls += 1
            if num_calls > 1:
                raise ValueError(
                    "this optimizer evaluates the gradient several times in a step, so that a single mask can't fit it"
                )
            loss = closure()
            self._before()
            return loss

        if len(args) > 1:
            return (args[0], closure_and_before, *args[2:]), kwargs
        return args, {**kwargs, "closure": closure_and_before}

    def _after_step(self, *_: Any) -> None:
        if sys._getframe(1) is self._stepping:
            self._stepping = None
            self._after()


def is_hooked(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer has a StepHook."""
    hooks = optimizer._optimizer_step_pre_hooks.values()
    return any(isinstance(getattr(hook, "__self__", None), StepHook) for hook in hooks)


def _is_running(frame: FrameType | None, innermost: FrameType) -> bool:
    """Return whether a frame is on the stack; the frame of a step that raised an error is not."""
    current: FrameType | None = innermost if frame is not None else None
    while current is not None and current is not frame:
        current = current.f_back
    return current is not None
