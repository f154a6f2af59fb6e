"""Lets a launcher stop a training, and evaluates in between. Knows nothing of launchers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gmt.errors import Interrupted, StoppedEarly
from gmt.training.workers import broadcast


@dataclass(frozen=True, kw_only=True)
class Control:
    """Callbacks between a run and its launcher; the defaults do nothing.

    Args:
        should_stop: called after each optimizer step, and during the evaluations before and after the training. True
            interrupts the run, which stores a checkpoint or the answers so far, and can be resumed later.
        on_progress: called after each micro-batch of training and each batch of evaluation.
        report_score: called after each intermediate evaluation with the step and the target score in [0, 1]; returns
            whether to continue. False ends the run with a checkpoint, as a run that was stopped early.
    """

    should_stop: Callable[[], bool] = lambda: False
    on_progress: Callable[[], None] = lambda: None
    report_score: Callable[[int, float], bool] = lambda step, score: True


class ControlCallback(TrainerCallback):
    """Calls the functions of a Control during a training, and evaluates at intervals.

    Each worker has this callback. The decision of the first worker holds for all, so that they end at the same step.

    Args:
        control: the callbacks.
        evaluate: returns the target score of the present model after a step; every worker calls it.
        evaluate_every: the number of optimizer steps between evaluations; 0 for none.
    """

    def __init__(self, control: Control, evaluate: Callable[[int], float], evaluate_every: int):
        self._control, self._evaluate, self._every = control, evaluate, evaluate_every
        self.ended: Interrupted | StoppedEarly | None = None
        self.as_evaluated: Callable[[], AbstractContextManager[None]] = nullcontext
        """The context of an evaluation: undoes the trainer's changes to the model, and sets the weights to evaluate."""

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        """Report progress after a micro-batch that does not end a step."""
        self._control.on_progress()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Report progress; end the training with a checkpoint if a callback asks for it."""
        self._control.on_progress()
        self.ended = broadcast(self._end(state.global_step, state.max_steps))
        if self.ended is not None:
            control.should_save = control.should_training_stop = True
        return control

    def _end(self, step: int, max_steps: int) -> Interrupted | StoppedEarly | None:
        """Return the error with which the training shall end; None if it shall continue."""
        if self._every and step % self._every == 0 and step < max_steps:
            with self.as_evaluated():
                score = self._evaluate(step)
            if not self._control.report_score(step, score):
                return StoppedEarly(f"stopped early at step {step} with target score {score:.1%}")
        return Interrupted(f"stopped on request at step {step}") if self._control.should_stop() else None
