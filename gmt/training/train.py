"""One training: transformers' Trainer with a method on its optimizer, resumable bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from gmt.errors import Diverged
from gmt.methods.protocol import Attached, Method
from gmt.tasks.tokens import IGNORED, TokenExample
from gmt.training.control import ControlCallback
from gmt.training.memory import peak_bytes, reset_peak
from gmt.training.meter import Meter, OnMetrics
from gmt.training.settings import TrainSettings

_METHOD_STATE = "method_state.pt"  # written last: a checkpoint without it was cut short


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


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[TokenExample],
    settings: TrainSettings,
    method: Method,
    *,
    seed: int,
    device: str,
    checkpoints: Path,
    checkpoint_every: int,
    log_every: int,
    on_metrics: OnMetrics,
    control: ControlCallback,
) -> TrainFacts:
    """Trains `model` in place, going on from the last whole checkpoint below `checkpoints` if there is one.

    Args:
        model: in float32, on any device.
        tokenizer: its pad token pads.
        examples: as `tokenize` gives them; shuffled anew each epoch by `seed`.
        settings: the train group.
        method: what is updated, and how.
        seed: of the data order, dropout, and the method's draws.
        device: `cpu` or `cuda`.
        checkpoints: folder of the checkpoints.
        checkpoint_every: optimizer steps between checkpoints.
        log_every: optimizer steps between calls of `on_metrics`, and between facts that take time.
        on_metrics: called with the step and its metrics.
        control: asked after each step whether to go on.

    Raises:
        Interrupted, StoppedEarly: `control` asked for it; the last checkpoint is of the last step.
        Diverged: the loss or a gradient is no finite number any more.
    """
    reset_peak()
    trainer = Trainer(
        model=model,
        args=_arguments(settings, seed, device, checkpoints, checkpoint_every, log_every),
        train_dataset=list(examples),
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    attached = method.attach(model, trainer.create_optimizer(), seed=seed, facts_every=log_every)
    resume = last_whole_checkpoint(checkpoints)
    if resume is not None:
        attached.load_state_dict(torch.load(resume / _METHOD_STATE, weights_only=True))
    meter = Meter(attached, on_metrics)
    trainer.add_callback(_MethodCallback(attached))
    trainer.add_callback(meter)
    trainer.add_callback(control)
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except FloatingPointError as error:
        raise Diverged(str(error)) from error
    finally:
        attached.detach()
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise Diverged(f"the weights of {name} hold NaN or Inf after the last step")
    if control.ended is not None:
        raise control.ended
    return _facts(trainer.state, meter)


def last_whole_checkpoint(checkpoints: Path) -> Path | None:
    """The newest checkpoint that was written to its end, or None."""
    whole = [p.parent for p in checkpoints.glob(f"checkpoint-*/{_METHOD_STATE}")]
    return max(whole, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


class _MethodCallback(TrainerCallback):
    """Tells the method of epochs, and keeps its state beside each checkpoint."""

    def __init__(self, attached: Attached):
        self._attached = attached

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._attached.begin_epoch(int(state.epoch or 0))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        assert args.output_dir is not None
        path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / _METHOD_STATE
        torch.save(self._attached.state_dict(), path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)


def _arguments(
    settings: TrainSettings, seed: int, device: str, checkpoints: Path, checkpoint_every: int, log_every: int
) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(checkpoints),
        seed=seed,
        data_seed=seed,
        use_cpu=device == "cpu",
        num_train_epochs=settings.num_epochs,
        per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=settings.accumulation_steps,
        optim="adamw_torch",
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.precision == "bf16",
        save_strategy="steps",
        save_steps=checkpoint_every,
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=log_every,
        logging_nan_inf_filter=False,  # the default hides a NaN loss behind the mean of the others
        include_num_input_tokens_seen="non_padding",
        dataloader_pin_memory=device != "cpu",
        remove_unused_columns=False,
        use_cache=True,  # False would be written into the config of the weights, and slow generation
        disable_tqdm=True,
        report_to="none",
    )


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
        moved += int((parameter.cpu() != base_parameters[name]).sum())
        total += parameter.numel()
    return moved / total
