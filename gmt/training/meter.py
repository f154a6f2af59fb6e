"""What a step costs and whether it is still sane, as a callback of transformers' Trainer."""

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
from gmt.training.attachment import Attachment
from gmt.training.checkpoints import METER_SUMS
from gmt.training.system import system_metrics
from gmt.training.workers import index

OnMetrics = Callable[[int, Mapping[str, float]], None]

# The Trainer's names -> ours. What isn't named here is not logged.
_TRAINER_METRICS = {
    "loss": "train/loss",
    "extra_loss": "train/extra_loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "epoch": "train/epoch",
    "num_input_tokens_seen": "train/tokens",
}
_PARTS = ("forward_backward", "mask", "optimizer")
# The first steps of each attempt, which load libraries and fill caches: the first takes 1.6 times a later one on nano,
# and its mask 4 times; from the third on they are level.
NUM_COLD_STEPS = 3


class Meter(TrainerCallback):
    """Times each part of a step and hands on the metrics of every logged one.

    A step is forward and backward (with accumulation and clipping), mask, optimizer. Means over the steps since
    the last log, in seconds. Reading a batch is not in it. Sums over the whole training lie in each checkpoint: of all
    steps, and, as `warm_...`, of those without the first NUM_COLD_STEPS of each attempt.

    Args:
        method: at work.
        on_metrics: called with the step and its metrics.
        resume: the checkpoint that the training goes on from, if there is one.
    """

    def __init__(self, method: Attachment, on_metrics: OnMetrics, resume: Path | None):
        self._method = method
        self._on_metrics = on_metrics
        self._marks: list[float] = []
        self._since_log = dict.fromkeys(_PARTS, 0.0)
        self._steps_since_log = 0
        self._num_cold = NUM_COLD_STEPS
        nothing = dict.fromkeys((*_PARTS, "density", "warm_steps", *(f"warm_{part}" for part in _PARTS)), 0.0)
        self.sums: dict[str, float] = nothing | {"num_trained": 0.0}
        if resume is not None:  # from before it was counted, the number of the steps so far is unknown
            stored = json.loads((resume / METER_SUMS).read_text(encoding="utf-8"))
            self.sums |= {"num_trained": math.nan} | stored

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """The first micro-batch of a step is about to run."""
        self._marks = [_now()]

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Gradients are accumulated and clipped."""
        self._marks.append(_now())

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """The optimizer, and the mask on its hook, are through."""
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
        """Return the mean seconds of a step's parts, and how many cold steps are left out of these means.

        Nothing is left out where no step is warm.

        Args:
            num_steps: of the whole training.
        """
        if num_warm := int(self.sums["warm_steps"]):
            return {part: self.sums[f"warm_{part}"] / num_warm for part in _PARTS}, num_steps - num_warm
        return {part: self.sums[part] / num_steps for part in _PARTS}, 0

    def density(self, num_steps: int) -> float | None:
        """Return the mean fraction of entries that was kept in a training's steps; None for a method without a mask."""
        mean = self.sums["density"] / num_steps
        return None if math.isnan(mean) else mean

    def num_trained(self, num_steps: int) -> float | None:
        """Return the mean number of entries that a step of a training trained; None if it is unknown."""
        mean = self.sums["num_trained"] / num_steps
        return None if math.isnan(mean) else mean

    def seconds(self) -> float:
        """Return the seconds of all steps."""
        return sum(self.sums[part] for part in _PARTS)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """The last step is always logged, so that the shortest training leaves its metrics."""
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
        """Hands on a step's metrics.

        Raises:
            Diverged: the loss is no finite number any more.
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
        """The Trainer has written its part of a checkpoint, and the method has not yet made it whole."""
        assert args.output_dir is not None
        if index() == 0:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / METER_SUMS).write_text(
                json.dumps(self.sums), encoding="utf-8"
            )


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
