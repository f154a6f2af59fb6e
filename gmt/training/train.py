"""Trains a model with a TRL trainer and an attached method; a resumed training gives the same weights bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerState

from gmt.errors import Diverged, UserError
from gmt.masking.sharding import local
from gmt.records.result import TrainFacts
from gmt.training.alike import check_steps_together
from gmt.training.attachment import MethodCallback
from gmt.training.checkpoints import drop_other_losses, last_whole_checkpoint, load_method
from gmt.training.control import ControlCallback
from gmt.training.false_alarms import without_false_alarms
from gmt.training.memory import peak_bytes, reset_peak, state_bytes
from gmt.training.meter import Meter, OnMetrics
from gmt.training.optimizers import averages, evaluated_weights
from gmt.training.paradigms import Execution, TrainingInputs, collator, trainer_of
from gmt.training.reshaping import Examples
from gmt.training.settings import TrainSettings
from gmt.training.trainer_patches import TrainerPatches
from gmt.training.workers import all_gather, broadcast


def train(
    inputs: TrainingInputs,
    settings: TrainSettings,
    *,
    seed: int,
    execution: Execution,
    on_metrics: OnMetrics,
    control: ControlCallback,
) -> TrainFacts:
    """Train the model in place, from the last complete checkpoint if there is one.

    Each process of a torch.distributed process group must call this, and takes its share of every step's mini-batches.

    Args:
        inputs: the model, the examples and the method.
        settings: the train group.
        seed: the seed of the data order, of dropout and of the method's draws.
        execution: where the training runs, and how often it saves and logs.
        on_metrics: called with the step and its metrics.
        control: decides after each step whether to continue.

    Raises:
        Interrupted, StoppedEarly: `control` ended the training; there is a checkpoint of the last step.
        Diverged: the loss, a gradient or a weight is NaN or Inf.
        UserError: the method can't work with this model, the checkpoint has another number of shards, or the model's
            loss depends on how a step is divided into batches.
    """
    reset_peak()
    drop_other_losses(execution.checkpoints)
    resume = broadcast(last_whole_checkpoint(execution.checkpoints))
    state = load_method(resume, is_sharded=execution.is_sharded) if resume else None
    attachment = _attachment(inputs, settings, seed, execution, state)
    meter = Meter(attachment, on_metrics, resume)
    check_steps_together(inputs.model, inputs.tokenizer, inputs.examples, settings)
    patches = TrainerPatches(inputs.model)
    callbacks = [meter, attachment, control]  # in this order, since the attachment completes a checkpoint
    trainer = trainer_of(inputs, settings, seed, execution, callbacks)
    control.as_evaluated = lambda: _as_evaluated(patches, attachment)
    try:
        with without_false_alarms(inputs.model):
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        num_touched = attachment.num_touched()
    except FloatingPointError as error:
        raise Diverged(str(error)) from error
    finally:
        attachment.detach()
        patches.remove()
    attachment.check_detached()
    if averages(attachment.optimizer):
        attachment.optimizer.eval()  # type: ignore[attr-defined]
    _refuse_nonfinite(inputs.model)
    if control.ended is not None:
        raise control.ended
    return _facts(trainer.state, meter, state_bytes(attachment.optimizer), num_touched)


def _attachment(
    inputs: TrainingInputs, settings: TrainSettings, seed: int, execution: Execution, state: dict[str, Any] | None
) -> MethodCallback:
    return MethodCallback(
        inputs.method,
        seed=seed,
        facts_every=execution.log_every,
        state=state,
        is_sharded=execution.is_sharded,
        source=inputs.source,
        examples=Examples(rows=inputs.examples, collate=collator(settings, inputs.tokenizer), device=execution.device),
    )


@contextmanager
def _as_evaluated(patches: TrainerPatches, attachment: MethodCallback) -> Iterator[None]:
    with patches.removed(), evaluated_weights(attachment.optimizer):
        yield


def _refuse_nonfinite(model: PreTrainedModel) -> None:
    local_name = next((n for n, p in model.named_parameters() if not bool(torch.isfinite(local(p)).all())), None)
    if name := next(filter(None, all_gather(local_name)), None):
        raise Diverged(f"the weights of {name} hold NaN or Inf after the last step")


def _facts(state: TrainerState, meter: Meter, optimizer_state_bytes: int, num_touched: int | None) -> TrainFacts:
    means, num_cold_steps = meter.mean_seconds(state.global_step)
    return TrainFacts(
        num_steps=state.global_step,
        num_tokens=int(state.num_input_tokens_seen),
        density=meter.density(state.global_step),
        **{f"{part}_s": mean for part, mean in means.items()},
        num_cold_steps=num_cold_steps,
        seconds=meter.seconds(),
        peak_memory_bytes=peak_bytes(),
        optimizer_state_bytes=optimizer_state_bytes,
        num_trained=meter.num_trained(state.global_step),
        num_touched=num_touched,
    )


def check_comparable(model: PreTrainedModel, base: PreTrainedModel) -> None:
    """Raise UserError if a model plug-in trains other parameters than its base has: moved entries can't be counted."""
    shapes, base_shapes = ({name: p.shape for name, p in m.named_parameters()} for m in (model, base))
    if shapes != base_shapes:
        name = next(name for name in [*shapes, *base_shapes] if shapes.get(name) != base_shapes.get(name))
        raise UserError(
            "model: load_model() must give a model with the parameters of base(), to count the entries that moved, "
            f"and {name} differs"
        )
