"""The training of a run, as each of its workers calls it: they must train alike."""

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
    """Put the parts of a run's method into its model, in place; each worker must come to the same.

    Args:
        run: what is done, the same in each worker.
        prepared: of the run.
        model: its base, on the CPU; left on the device where the method looks at examples.
        device: `cpu` or `cuda`.

    Raises:
        UserError: the method can't work with this model.
    """
    rows = Examples(rows=prepared.examples, collate=collator(run.train, prepared.reader.tokenizer), device=device)
    return Reshaping(run.method, model, seed=run.seed, examples=rows)


def source_prompts(prepared: Prepared, device: str) -> Iterator[dict[str, Tensor]]:
    """Give other prompts of a run's source suites, each a batch of its own, as the evaluation gives it to the model."""
    for prompts in calibration_prompts(prepared.suites).values():
        for prompt in prompts:
            yield {"input_ids": torch.tensor([token_ids(prepared.reader, prompt)], device=device)}


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
    """Trains the model of a run in place; see `gmt.training.train.train`.

    Args:
        run: what is done, the same in each worker.
        prepared: of the run.
        model: its base, reshaped.
        reshaping: of the model.
        settings: the run's, or the same with smaller micro-batches.
        device: `cpu` or `cuda`.
        control: who stands outside; nobody does for the other workers.
        evaluate: called with the step at each intermediate evaluation, in each worker, for the target score in [0, 1].
        on_metrics: called with the step and its metrics.

    Raises:
        UserError: another user could have written a checkpoint; and as `train` does.
    """
    run.record_settings.refuse_foreign(run.record.checkpoints)  # FSDP's hold a pickle

    def one(method: Method, checkpoints: Path, steps_before: int) -> TrainFacts:
        go_on = replace(control, go_on=lambda step, score: control.go_on(steps_before + step, score))
        on_the_way = ControlCallback(
            go_on, lambda step: evaluate(steps_before + step), run.record_settings.evaluate_every
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
            execution=Execution(
                device=device,
                sharding=run.resources.sharding,
                checkpoints=checkpoints,
                checkpoint_every=run.record_settings.checkpoint_every,
                log_every=run.record_settings.log_every,
            ),
            on_metrics=lambda step, metrics: on_metrics(steps_before + step, metrics),
            control=on_the_way,
        )

    if isinstance(run.method, TrainsInPhases):
        return train_in_phases(run.method, model, run.model.load_model, run.record.checkpoints, one)
    return one(run.method, run.record.checkpoints, 0)
