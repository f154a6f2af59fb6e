"""One training: transformers' Trainer with a method on its optimizer, resumable bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from gmt.errors import Diverged
from gmt.masking.sharding import local
from gmt.methods.protocol import Method
from gmt.tasks.tokens import IGNORED, TokenExample
from gmt.training.attachment import Attachment
from gmt.training.batches import WorkersTrainer
from gmt.training.checkpoints import last_whole_checkpoint, load_method
from gmt.training.control import ControlCallback
from gmt.training.memory import peak_bytes, reset_peak
from gmt.training.meter import Meter, OnMetrics
from gmt.training.settings import TrainSettings
from gmt.training.workers import agreed, gathered, num_workers


@dataclass(frozen=True, kw_only=True)
class TrainFacts:
    """What a training did, in this process: after a resume, times and steps are of the part after it.

    Args:
        num_steps: optimizer steps of the whole training.
        num_tokens: tokens of the whole training, without padding.
        timed_steps: optimizer steps in this process, over which the times and the density are means.
        density: mean fraction of entries that was kept.
        forward_backward_s, mask_s, optimizer_s: mean seconds of a step's parts.
        peak_memory_bytes: of the GPU if there is one, else the process's resident set.
    """

    num_steps: int
    num_tokens: int
    timed_steps: int
    density: float
    forward_backward_s: float
    mask_s: float
    optimizer_s: float
    peak_memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where a training is carried out and what it keeps on the way; none of it changes what is learnt.

    Args:
        device: `cpu` or `cuda`.
        sharding: `none`: each process holds all weights (DDP); `fsdp`: its shards (FSDP2). `gather` makes them whole.
        checkpoints: folder of the checkpoints, which all processes must see.
        checkpoint_every: optimizer steps between checkpoints.
        log_every: optimizer steps between calls of `on_metrics`, and between facts that take time.
    """

    device: str
    sharding: str
    checkpoints: Path
    checkpoint_every: int
    log_every: int

    @property
    def is_sharded(self) -> bool:
        """Whether a process holds only its shards of the weights."""
        return self.sharding == "fsdp"


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[TokenExample],
    settings: TrainSettings,
    method: Method,
    *,
    seed: int,
    execution: Execution,
    on_metrics: OnMetrics,
    control: ControlCallback,
) -> TrainFacts:
    """Trains `model` in place, going on from the last whole checkpoint if there is one.

    In a process group of torch.distributed each process must call it, and takes its share of every step's
    mini-batches.

    Args:
        model: on any device.
        tokenizer: its pad token pads.
        examples: as `tokenize` gives them; shuffled anew each epoch by `seed`.
        settings: the train group.
        method: what is updated, and how.
        seed: of the data order, dropout, and the method's draws.
        execution: where, and what is kept.
        on_metrics: called with the step and its metrics.
        control: asked after each step whether to go on.

    Raises:
        Interrupted, StoppedEarly: `control` asked for it; the last checkpoint is of the last step.
        Diverged: the loss or a gradient is no finite number any more.
        UserError: the method can't work with this model, or the checkpoint not with these workers.
    """
    reset_peak()
    resume = agreed(last_whole_checkpoint(execution.checkpoints))
    state = load_method(resume, is_sharded=execution.is_sharded) if resume else None
    attachment = Attachment(
        method, seed=seed, facts_every=execution.log_every, state=state, is_sharded=execution.is_sharded
    )
    meter = Meter(attachment, on_metrics)
    trainer = _trainer(model, tokenizer, examples, settings, seed, execution, [attachment, meter, control])
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except FloatingPointError as error:
        raise Diverged(str(error)) from error
    finally:
        attachment.detach()
    _refuse_nonfinite(model)
    if control.ended is not None:
        raise control.ended
    return _facts(trainer.state, meter)


def _refuse_nonfinite(model: PreTrainedModel) -> None:
    bad = next((n for n, p in model.named_parameters() if not bool(torch.isfinite(local(p)).all())), None)
    if name := next(filter(None, gathered(bad)), None):
        raise Diverged(f"the weights of {name} hold NaN or Inf after the last step")


def _trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[TokenExample],
    settings: TrainSettings,
    seed: int,
    execution: Execution,
    callbacks: list[TrainerCallback],
) -> WorkersTrainer:
    if execution.is_sharded:
        model.to("cpu")  # type: ignore[arg-type]  # each layer goes to its device as it is sharded, never all at once
    trainer = WorkersTrainer(
        autocast_sharded=execution.is_sharded and settings.precision == "bf16",
        model=model,
        args=_arguments(settings, seed, execution),
        train_dataset=list(examples),
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(settings: TrainSettings, seed: int, execution: Execution) -> TrainingArguments:
    is_sharded, on_cpu = execution.is_sharded, execution.device == "cpu"
    arguments = TrainingArguments(
        output_dir=str(execution.checkpoints),
        seed=seed,
        data_seed=seed,
        use_cpu=on_cpu,
        num_train_epochs=settings.num_epochs,
        per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=settings.accumulation_steps // num_workers(),
        optim="adamw_torch",
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.precision == "bf16" and not is_sharded,
        fsdp=is_sharded,  # type: ignore[arg-type]  # annotated for a form that is deprecated
        fsdp_config={"version": 2, "state_dict_type": "SHARDED_STATE_DICT"} if is_sharded else None,
        save_strategy="steps",
        save_steps=execution.checkpoint_every,
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=execution.log_every,
        logging_nan_inf_filter=False,  # the default hides a NaN loss behind the mean of the others
        include_num_input_tokens_seen="non_padding",
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        use_cache=True,  # False would be written into the config of the weights, and slow generation
        disable_tqdm=True,
        report_to="none",
    )
    if is_sharded and on_cpu:
        # accelerate shards where it says MULTI_GPU only, and would else train with DDP; the device stays the CPU.
        PartialState().distributed_type = DistributedType.MULTI_GPU
    return arguments


def _facts(state: TrainerState, meter: Meter) -> TrainFacts:
    steps = max(meter.num_steps, 1)
    return TrainFacts(
        num_steps=state.global_step,
        num_tokens=int(state.num_input_tokens_seen),
        timed_steps=meter.num_steps,
        density=meter.density_sum / steps,
        forward_backward_s=meter.totals["forward_backward"] / steps,
        mask_s=meter.totals["mask"] / steps,
        optimizer_s=meter.totals["optimizer"] / steps,
        peak_memory_bytes=peak_bytes(),
    )


@torch.no_grad()
def moved_fraction(model: PreTrainedModel, base: PreTrainedModel) -> float:
    """The fraction of a model's entries, tied weights counted once, that differ from the base's."""
    base_parameters = dict(base.named_parameters())
    moved = total = 0
    for name, parameter in model.named_parameters():
        moved += int((parameter.cpu() != base_parameters[name].to(parameter.dtype)).sum())
        total += parameter.numel()
    return moved / total
