"""Trains a run's model; each worker of a run calls these functions, with the same arguments."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gmt.evaluation.context import token_ids
from gmt.methods.protocol import Method, TrainsInPhases
from gmt.records.result import TrainFacts
from gmt.runs.build import Run
from gmt.runs.calibration import calibration_prompts
from gmt.runs.phases import train_in_phases
from gmt.runs.prepare import Prepared
from gmt.training.control import Control, ControlCallback
from gmt.training.meter import OnMetrics
from gmt.training.paradigms import Execution, TrainingInputs, collator
from gmt.training.reshaping import Examples, Reshaping
from gmt.training.settings import TrainSettings
from gmt.training.train import train


def reshaped(run: Run, prepared: Prepared, model: PreTrainedModel, device: str) -> Reshaping:
    """Put the parts of a run's method into its model, in place; the result must be the same in each worker.

    Args:
        run: the run, the same in each worker.
        prepared: the run's examples and tokenizer.
        model: the run's base, on the CPU; a method that reads examples moves it to the device and leaves it there.
        device: `cpu` or `cuda`.

    Raises:
        UserError: the method can't work with this model.
    """
    rows = Examples(rows=prepared.examples, collate=collator(run.train, prepared.reader.tokenizer), device=device)
    return Reshaping(run.method, model, seed=run.seed, examples=rows)


def source_prompts(prepared: Prepared, device: str) -> Iterator[dict[str, Tensor]]:
    """Yield source prompts that the run is not evaluated on, one in a batch, in the evaluation's prompt format."""
    for prompts in calibration_prompts(prepared.suites).values():
        for prompt in prompts:
            yield {"input_ids": torch.tensor([token_ids(prepared.reader, prompt)], device=device)}


def _execution(run: Run, device: str, checkpoints: Path) -> Execution:
    """Return the device, the checkpoints and the logging of a run's training, which do not change the result."""
    return Execution(
        device=device,
        sharding=run.resources.sharding,
        checkpoints=checkpoints,
        checkpoint_every=run.record_settings.checkpoint_every,
        log_every=run.record_settings.log_every,
    )


def train_run(
    run: Run,
    prepared: Prepared,
    model: PreTrainedModel,
    reshaping: Reshaping,
    settings: TrainSettings,
    device: str,
    *,
    control: Control,
    evaluate: Callable[[int], float],
    on_metrics: OnMetrics,
) -> TrainFacts:
    """Train the model of a run in place; see `gmt.training.train.train`.

    Args:
        run: the run, the same in each worker.
        prepared: the run's examples and tokenizer.
        model: the run's base, reshaped.
        reshaping: the parts that the method has put into the model.
        settings: the run's train group, perhaps with smaller micro-batches.
        device: `cpu` or `cuda`.
        control: receives progress and may demand a stop; workers other than the first pass one that does nothing.
        evaluate: returns the target score, in [0, 1], of the model at a step; each worker calls it.
        on_metrics: called with the step and its metrics.

    Raises:
        UserError: another user could have written a checkpoint; or as `train`.
    """
    run.record_settings.refuse_foreign(run.record.checkpoints)  # checkpoints of FSDP hold a pickle

    def train_phase(method: Method, checkpoints: Path, steps_before: int) -> TrainFacts:
        phase_control = replace(
            control, report_score=lambda step, score: control.report_score(steps_before + step, score)
        )
        control_callback = ControlCallback(
            phase_control, lambda step: evaluate(steps_before + step), run.record_settings.evaluate_every
        )
        return train(
            TrainingInputs(
                model=model,
                tokenizer=prepared.reader.tokenizer,
                examples=prepared.examples,
                reference=lambda: reshaping.reference() or run.model.load_model(),
                base=run.model.load_model,
                method=method,
                source=lambda: source_prompts(prepared, device),
            ),
            settings,
            seed=run.seed,
            execution=_execution(run, device, checkpoints),
            on_metrics=lambda step, metrics: on_metrics(steps_before + step, metrics),
            control=control_callback,
        )

    if isinstance(run.method, TrainsInPhases):
        return train_in_phases(run.method, model, run.model.load_model, run.record.checkpoints, train_phase)
    return train_phase(run.method, run.record.checkpoints, 0)
