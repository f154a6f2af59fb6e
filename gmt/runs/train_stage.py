"""The stage of a run that trains."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch
from transformers import PreTrainedModel

from gmt.masking.bits import weights_sha256
from gmt.methods.protocol import Method, ReadsMicroBatches
from gmt.runs.build import Run
from gmt.runs.evaluate import PARTS, evaluate
from gmt.runs.final_weights import FinalWeights, save_whole
from gmt.runs.phases import num_steps_done
from gmt.runs.run_context import RunContext, to_device
from gmt.runs.train import reshaped, train_run
from gmt.training.delta import delta_of
from gmt.training.gather import gather
from gmt.training.memory import give_back
from gmt.training.settings import TrainSettings
from gmt.training.train import check_comparable
from gmt.training.workers import broadcast, num_workers


def train_weights(context: RunContext) -> FinalWeights:
    """Train with the largest micro-batches that fit into the GPU's memory; the examples of each step stay the same.

    Raises:
        torch.OutOfMemoryError: no micro-batch fits, or smaller ones would change the entries that the method trains.
    """
    settings, record = context.run.train, context.record
    while settings.micro_batch_size > record.status().get("micro_batch_size", math.inf):
        settings = settings.with_smaller_micro_batches()
    while True:
        try:
            return _train_once(context, settings)
        except torch.OutOfMemoryError as error:
            refuse_smaller_micro_batches(context.run.method, settings, error)
            if settings.micro_batch_size == 1 or num_workers() > 1:  # other workers may have had enough memory
                raise
            settings = settings.with_smaller_micro_batches()
            record.set_status("running", micro_batch_size=settings.micro_batch_size)
        give_back()  # after the except block, in which the traceback holds the failed attempt's tensors


def refuse_smaller_micro_batches(method: Method, settings: TrainSettings, error: torch.OutOfMemoryError) -> None:
    """Refuse smaller micro-batches for a method that chooses entries by their gradients, since the result would differ.

    Raises:
        torch.OutOfMemoryError: the method reads micro-batches; the error says what to do.
    """
    if isinstance(method, ReadsMicroBatches) and method.reads_micro_batches:
        raise torch.OutOfMemoryError(
            f"train.micro_batch_size={settings.micro_batch_size} needs more memory than the GPU has, and method "
            f"{method.name} chooses entries by a micro-batch's gradient, so that smaller micro-batches would choose "
            f"other entries: set a smaller train.micro_batch_size with more train.accumulation_steps ({error})"
        ) from error


def _train_once(context: RunContext, settings: TrainSettings) -> FinalWeights:
    run, record, device = context.run, context.record, context.device
    model = run.model.load_model()
    check_comparable(model, run.model.base())
    reshaping = reshaped(run, context.prepared, model, device)
    to_device(model, device)
    record.keep_metrics_until(num_steps_done(run.method, record.checkpoints))
    broadcast((device, settings, context.prepared.chosen))  # the other workers begin to train (gmt/runs/workers.py)
    facts = train_run(
        run,
        context.prepared,
        model,
        reshaping,
        settings,
        device,
        control=context.control,
        evaluate=lambda step: _target_score(context, model, step),
        on_metrics=record.append_metrics,
    )
    if run.record_settings.keep_weights:
        reshaping.save(record.folder / "adapter")
    reshaping.finish()
    gathered = _gathered(run, model, device)
    delta = delta_of(reshaping.base_parameters(gathered), run.model.base())  # before the evaluation, which takes long

    def save(folder: Path) -> None:
        if not reshaping.has_parts or run.record_settings.keeps_whole:  # else the adapter, saved above, is enough
            save_whole(gathered, context.prepared.reader.tokenizer, folder)

    return FinalWeights(
        model=gathered,
        delta=delta,
        sizes=reshaping.sizes,
        training=facts,
        settings=settings,
        save=save,
    )


def _target_score(context: RunContext, model: PreTrainedModel, step: int) -> float:
    """Return the target score of a model during training, and log the scores of all evaluated parts.

    If the weights are in shards, each worker must gather them at the same time.
    """
    gathered = _gathered(context.run, model, context.device)
    prepared = context.prepared.for_method(context.run.method)
    sha256 = weights_sha256(dict(gathered.named_parameters()))
    folder = context.record.folder / "evaluation" / f"step-{step}-{sha256[:16]}"
    # A stop halfway would lose this evaluation, since this step has no checkpoint yet.
    without_stop = dataclasses.replace(context.control, should_stop=lambda: False)
    parts = PARTS if context.run.record_settings.evaluate_source else ("target",)
    evaluated = evaluate(context.run, prepared, gathered, folder, without_stop, parts=parts)
    context.record.append_metrics(step, evaluated.metrics)
    return evaluated.scores["target"]["mean"]


def _gathered(run: Run, model: PreTrainedModel, device: str) -> PreTrainedModel:
    """Return the model; if it is in shards, a copy with the weights of all workers, each of which must call this."""
    return to_device(gather(model, run.model.load_model), device)
