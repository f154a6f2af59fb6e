"""Makes the TRL trainer of `train.paradigm`, with every setting that affects the result given explicitly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, SFTConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from gmt.methods.protocol import AddsLoss, MakesGroups, Method, maker_of_optimizer
from gmt.methods.source_prompts import Prompts
from gmt.training.batches import WorkersDPOTrainer, WorkersSFTTrainer
from gmt.training.optimizers import default_groups, make_optimizer
from gmt.training.settings import TrainSettings
from gmt.training.workers import num_workers


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where a training runs, and how often it saves and logs; none of this changes what is learnt.

    Args:
        device: `cpu` or `cuda`.
        sharding: `none`: each process has all weights (DDP); `fsdp`: each has its shards (FSDP2).
        checkpoints: the folder of the checkpoints, which all processes must share.
        checkpoint_every: the number of optimizer steps between checkpoints.
        log_every: the number of optimizer steps between calls of `on_metrics`, and between facts that take time.
    """

    device: str
    sharding: str
    checkpoints: Path
    checkpoint_every: int
    log_every: int

    @property
    def is_sharded(self) -> bool:
        """Whether each process has only its shards of the weights."""
        return self.sharding == "fsdp"


@dataclass(frozen=True, kw_only=True)
class TrainingInputs:
    """The objects that a training works on.

    Args:
        model: the model, on any device; the training changes it in place.
        tokenizer: the model's tokenizer, whose pad token is used.
        examples: the tokenised examples, packed or not; they are shuffled anew in each epoch.
        reference: returns DPO's reference model, which computes what the model computed before any training.
        base: returns the model as it was before any training and without the method's parts, for the method's loss
            term.
        method: the method, which decides the entries that move, and may make the optimizer or its groups.
        source: returns the prompts of the source suites, for a method that reads them.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    examples: Dataset
    reference: Callable[[], nn.Module]
    base: Callable[[], PreTrainedModel]
    method: Method
    source: Prompts | None = None


def trainer_of(
    inputs: TrainingInputs, settings: TrainSettings, seed: int, execution: Execution, callbacks: list[TrainerCallback]
) -> Trainer:
    """Return the trainer of the paradigm, ready to train."""
    arguments = _arguments(settings, seed, execution)
    config: SFTConfig | DPOConfig = (
        DPOConfig(**arguments, beta=settings.dpo_beta, max_length=None)
        if settings.paradigm == "dpo"
        else SFTConfig(**arguments, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None)
    )
    if execution.is_sharded:
        # so that each layer moves to its device when it is sharded, and the device never holds the whole model
        inputs.model.to("cpu")  # type: ignore[arg-type]
        if execution.device == "cpu":
            # accelerate shards only if the type is MULTI_GPU, and would otherwise train with DDP; the device stays the
            # CPU. The config's constructor sets the type too, so this must come after it.
            PartialState().distributed_type = DistributedType.MULTI_GPU
    trainer: Any = (_dpo if settings.paradigm == "dpo" else _sft)(
        inputs,
        settings,
        model=inputs.model,
        args=config,
        train_dataset=inputs.examples,
        processing_class=inputs.tokenizer,
        callbacks=callbacks,
    )
    if hasattr(text := inputs.model.config.get_text_config(), "router_aux_loss_coef"):
        text.router_aux_loss_coef = 0.0  # TRL sets it for SFT only; checkpoints.py reads it from config.json
    has_own_groups = isinstance(inputs.method, MakesGroups) or maker_of_optimizer(inputs.method) is not None
    if settings.optimizer != "adamw" or has_own_groups:
        trainer.make_optimizer = lambda: optimizer_of(inputs.method, inputs.model, settings)
    if isinstance(inputs.method, AddsLoss):
        trainer.loss_term = inputs.method.loss_term(inputs.model, base=inputs.base)
    trainer.autocast_sharded = execution.is_sharded and settings.precision == "bf16"
    trainer.remove_callback(PrinterCallback)
    assert isinstance(trainer, Trainer)
    return trainer


def optimizer_of(method: Method, model: PreTrainedModel, settings: TrainSettings) -> Optimizer:
    """Return the optimizer of a training, at the peak of the learning rate.

    Args:
        method: the method, which may make groups or the optimizer.
        model: the model; reshaped already, if the method reshapes models.
        settings: the train group.

    Raises:
        UserError: see `gmt.training.optimizers.make_optimizer`.
    """
    decayed_names: Any = Trainer.get_decay_parameter_names  # a method that does not read self
    groups = default_groups(
        model,
        decayed_names(None, model),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        betas=(settings.adam_beta1, settings.adam_beta2),
    )
    return make_optimizer(method, model, groups, name=settings.optimizer, momentum=settings.momentum)


def _sft(inputs: TrainingInputs, settings: TrainSettings, **common: Any) -> WorkersSFTTrainer:
    return WorkersSFTTrainer(data_collator=collator(settings, inputs.tokenizer), **common)


def _dpo(inputs: TrainingInputs, settings: TrainSettings, **common: Any) -> WorkersDPOTrainer:
    return WorkersDPOTrainer(ref_model=inputs.reference(), data_collator=collator(settings, inputs.tokenizer), **common)


def collator(settings: TrainSettings, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the function that makes a batch of rows.

    Padding is on the right, whatever the tokenizer's setting is, so that positions count from each example's first
    token.
    """
    pad = tokenizer.pad_token_id
    if settings.paradigm == "dpo":
        return DataCollatorForPreference(pad_token_id=pad)
    return DataCollatorForLanguageModeling(pad_token_id=pad, padding_free=settings.packing)


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
        "optim": "adamw_torch_fused",
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup_ratio,
        "weight_decay": settings.weight_decay,
        "adam_beta1": settings.adam_beta1,
        "adam_beta2": settings.adam_beta2,
        "max_grad_norm": settings.max_grad_norm,
        # without the routers' auxiliary loss, which would make a step depend on how it is divided into batches
        "router_aux_loss_coef": 0.0,
        "bf16": settings.precision == "bf16" and not is_sharded,
        "activation_checkpointing": False,  # model.gradient_checkpointing sets it when the model is loaded
        # a method may freeze parameters after DDP wraps the model; the default fails with checkpointed activations
        "ddp_find_unused_parameters": True,
        "fsdp": is_sharded,
        "fsdp_config": {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"} if is_sharded else None,
        "save_strategy": "steps",
        "save_steps": execution.checkpoint_every,
        "save_total_limit": 2,
        "logging_strategy": "steps",
        "logging_steps": execution.log_every,
        "logging_nan_inf_filter": False,  # the default replaces a NaN loss by the mean of the others
        # packed rows have no padding; "non_padding" would leave out each end of an example that is the pad token
        "include_num_input_tokens_seen": "all" if settings.packing else "non_padding",
        "dataloader_pin_memory": not on_cpu,
        "remove_unused_columns": False,
        "use_cache": True,  # False would be saved in the model's config, and slow down generation
        "disable_tqdm": True,
        "report_to": "none",
    }
