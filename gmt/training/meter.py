"""A callback of transformers' Trainer that times steps, reports metrics, and stops a diverged training."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gmt.errors import Diverged
from gmt.training.attachment import MethodCallback
from gmt.training.checkpoints import METER_SUMS
from gmt.training.system import system_metrics
from gmt.training.workers import index

OnMetrics = Callable[[int, Mapping[str, float]], None]

# The Trainer's name of each logged metric, and ours; its other metrics are not logged.
_TRAINER_METRICS = {
    "loss": "train/loss",
    "extra_loss": "train/extra_loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "epoch": "train/epoch",
    "num_input_tokens_seen": "train/tokens",
}
_PARTS = ("forward_backward", "mask", "optimizer")
# The first steps of each attempt are slower, since they load libraries and fill caches. With the model nano, step 1
# takes 1.6 times as long as a later step, and its mask 4 times; steps 3 and later take equally long.
NUM_COLD_STEPS = 3


class Meter(TrainerCallback):
    """Times the parts of each step, and reports metrics at the logged steps.

    The parts of a step are forward and backward passes (with accumulation and clipping), mask, and optimizer; reading
    batches is not timed. The reported times are means over the steps since the last log, in seconds. Each checkpoint
    has the sums over the training so far: over all steps, and, under names that begin with `warm_`, over all except the
    first NUM_COLD_STEPS of each attempt.

    Args:
        method: the attachment of the method.
        on_metrics: called with the step and its metrics.
        resume: the checkpoint from which the training is resumed, if there is one.
    """

    def __init__(self, method: MethodCallback, on_metrics: OnMetrics, resume: Path | None):
        self._method = method
        self._on_metrics = on_metrics
        self._marks: list[float] = []
        self._since_log = dict.fromkeys(_PARTS, 0.0)
        self._steps_since_log = 0
        self._num_cold = NUM_COLD_STEPS
        zeros = dict.fromkeys((*_PARTS, "density", "warm_steps", *(f"warm_{part}" for part in _PARTS)), 0.0)
        self.sums: dict[str, float] = zeros | {"num_trained": 0.0}
        if resume is not None:  # an older checkpoint lacks num_trained, which then stays unknown
            stored = json.loads((resume / METER_SUMS).read_text(encoding="utf-8"))
            self.sums |= {"num_trained": math.nan} | stored

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Note the time before the first micro-batch of a step."""
        self._marks = [_now()]

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Note the time after the gradients were accumulated and clipped."""
        self._marks.append(_now())

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Add the times and facts of a step to the sums, after the mask and the optimizer."""
        begin, before, after = *self._marks, _now()
        facts = self._method.facts()
        mask = facts.get("mask_seconds", 0.0)
        parts = {"forward_backward": before - begin, "mask": mask, "optimizer": after - before - mask}
        is_warm = self._num_cold == 0
        self._num_cold -= not is_warm
        self.sums["warm_steps"] += is_warm
        for name, seconds in parts.items():
            self._since_log[name] += seconds
            self.sums[name] += seconds
            self.sums[f"warm_{name}"] += seconds * is_warm
        self._steps_since_log += 1
        self.sums["density"] += facts.get("density", math.nan)
        self.sums["num_trained"] += self._method.num_trained()

    def mean_seconds(self, num_steps: int) -> tuple[dict[str, float], int]:
        """Return the mean seconds of a step's parts, and the number of cold steps that the means leave out.

        If all steps are cold, none is left out.

        Args:
            num_steps: the number of steps of the whole training.
        """
        if num_warm := int(self.sums["warm_steps"]):
            return {part: self.sums[f"warm_{part}"] / num_warm for part in _PARTS}, num_steps - num_warm
        return {part: self.sums[part] / num_steps for part in _PARTS}, 0

    def density(self, num_steps: int) -> float | None:
        """Return the mean over all steps of the fraction of kept entries; None for a method without a mask."""
        mean = self.sums["density"] / num_steps
        return None if math.isnan(mean) else mean

    def num_trained(self, num_steps: int) -> float | None:
        """Return the mean number of entries that a step trained; None if unknown."""
        mean = self.sums["num_trained"] / num_steps
        return None if math.isnan(mean) else mean

    def seconds(self) -> float:
        """Return the seconds of all steps."""
        return sum(self.sums[part] for part in _PARTS)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Request a log at the last step, so that even the shortest training reports metrics."""
        control.should_log |= state.global_step >= state.max_steps
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Report a step's metrics.

        Raises:
            Diverged: the loss is NaN or Inf.
        """
        if logs is None or "loss" not in logs or not self._steps_since_log:
            return
        metrics = {ours: float(logs[name]) for name, ours in _TRAINER_METRICS.items() if name in logs}
        facts = self._method.facts()
        prefix = "mask" if "density" in facts else "method"
        facts = {f"{prefix}/{k}": v for k, v in facts.items() if k != "mask_seconds"}
        times = {f"time/{k}_s": v / self._steps_since_log for k, v in self._since_log.items()}
        if not math.isfinite(metrics["train/loss"]):
            raise Diverged(f"the training loss is {metrics['train/loss']} at step {state.global_step}")
        self._on_metrics(state.global_step, metrics | facts | times | system_metrics())
        self._since_log = dict.fromkeys(_PARTS, 0.0)
        self._steps_since_log = 0

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the sums into a checkpoint, after the Trainer's part and before the method's state completes it."""
        assert args.output_dir is not None
        if index() == 0:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / METER_SUMS).write_text(
                json.dumps(self.sums), encoding="utf-8"
            )


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
