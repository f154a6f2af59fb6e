"""The trainers of TRL that stand behind `train.paradigm`, told all that could change a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, SFTConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from gmt.tasks.tokens import IGNORED
from gmt.training.batches import WorkersDPOTrainer, WorkersSFTTrainer
from gmt.training.settings import TrainSettings
from gmt.training.workers import num_workers

C = TypeVar("C")


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


@dataclass(frozen=True, kw_only=True)
class Made:
    """What is trained, on what.

    Args:
        model: on any device; is trained in place.
        tokenizer: its pad token pads.
        examples: rows of tokens.
        base: makes the model as it was before any training.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    examples: Sequence[Mapping[str, Any]]
    base: Callable[[], PreTrainedModel]


def trainer_of(
    made: Made, settings: TrainSettings, seed: int, execution: Execution, callbacks: list[TrainerCallback]
) -> Trainer:
    """The trainer of a paradigm, ready to train."""
    if execution.is_sharded:
        # each layer goes to its device as it is sharded, never all at once
        made.model.to("cpu")  # type: ignore[arg-type]
    trainer: Any = (_dpo if settings.paradigm == "dpo" else _sft)(made, settings, seed, execution, callbacks)
    trainer.autocast_sharded = execution.is_sharded and settings.precision == "bf16"
    trainer.remove_callback(PrinterCallback)
    assert isinstance(trainer, Trainer)
    return trainer


def _sft(made: Made, settings: TrainSettings, seed: int, execution: Execution, callbacks: list[TrainerCallback]) -> Any:
    arguments, pad = _arguments(settings, seed, execution), made.tokenizer.pad_token_id
    if settings.packing:
        collator: Any = DataCollatorForLanguageModeling(pad_token_id=pad, padding_free=True)
    else:
        collator = DataCollatorForSeq2Seq(made.tokenizer, label_pad_token_id=IGNORED)
    return WorkersSFTTrainer(
        model=made.model,
        args=_sharding(
            SFTConfig(**arguments, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None), execution
        ),
        train_dataset=Dataset.from_list(list(made.examples)),
        data_collator=collator,
        processing_class=made.tokenizer,
        callbacks=callbacks,
    )


def _dpo(made: Made, settings: TrainSettings, seed: int, execution: Execution, callbacks: list[TrainerCallback]) -> Any:
    arguments = _arguments(settings, seed, execution)
    return WorkersDPOTrainer(
        model=made.model,
        ref_model=made.base(),
        args=_sharding(DPOConfig(**arguments, beta=settings.dpo_beta, max_length=None), execution),
        train_dataset=Dataset.from_list(list(made.examples)),
        data_collator=DataCollatorForPreference(pad_token_id=made.tokenizer.pad_token_id),
        processing_class=made.tokenizer,
        callbacks=callbacks,
    )


def _arguments(settings: TrainSettings, seed: int, execution: Execution) -> dict[str, Any]:
    is_sharded, on_cpu = execution.is_sharded, execution.device == "cpu"
    return {
        "output_dir": str(execution.checkpoints),
        "seed": seed,
        "data_seed": seed,
        "use_cpu": on_cpu,
        "num_train_epochs": settings.num_epochs,
        "per_device_train_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.accumulation_steps // num_workers(),
        "optim": "adamw_torch",
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup_ratio,
        "weight_decay": settings.weight_decay,
        "adam_beta1": settings.adam_beta1,
        "adam_beta2": settings.adam_beta2,
        "max_grad_norm": settings.max_grad_norm,
        "bf16": settings.precision == "bf16" and not is_sharded,
        "activation_checkpointing": False,  # the model is made with it or without it
        "fsdp": is_sharded,
        "fsdp_config": {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"} if is_sharded else None,
        "save_strategy": "steps",
        "save_steps": execution.checkpoint_every,
        "save_total_limit": 2,
        "logging_strategy": "steps",
        "logging_steps": execution.log_every,
        "logging_nan_inf_filter": False,  # the default hides a NaN loss behind the mean of the others
        # packed rows have no padding, and no attention mask that could tell it from an end of the same token
        "include_num_input_tokens_seen": "all" if settings.packing else "non_padding",
        "dataloader_pin_memory": not on_cpu,
        "remove_unused_columns": False,
        "use_cache": True,  # False would be written into the config of the weights, and slow generation
        "disable_tqdm": True,
        "report_to": "none",
    }


def _sharding(config: C, execution: Execution) -> C:
    """The config, once accelerate knows that it shall shard on the CPU too."""
    if execution.is_sharded and execution.device == "cpu":
        # It shards where it says MULTI_GPU only, and would else train with DDP; the device stays the CPU.
        PartialState().distributed_type = DistributedType.MULTI_GPU
    return config
