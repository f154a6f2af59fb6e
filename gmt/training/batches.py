"""Divides mini-batches among workers, so that together they read in each step what a single worker would read.

accelerate also gives the workers mini-batches in turn. But if their number at the end of an epoch is not a multiple of
the workers, it repeats examples from the epoch's beginning, which a single worker would not do. Here blanks fill the
gap: a blank is one padding token without a label, which adds nothing to the loss, the gradient or the count of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import chain, repeat
from typing import Any, cast

import torch
from accelerate.data_loader import DataLoaderShard
from torch.optim import Optimizer
from torch.utils.data import BatchSampler, DataLoader
from trl import DPOTrainer, SFTTrainer

from gmt.methods.protocol import ClipsGradients, LossTerm
from gmt.tasks.tokens import IGNORED


class WorkerBatches(BatchSampler):
    """The mini-batches of one worker: every `num_workers`-th; blanks make the number equal for all workers.

    Args:
        batches: the mini-batches of all workers.
        index: the worker's number, from 0.
        num_workers: the number of workers.
        blank: the mini-batch that fills the gaps at the end.
    """

    def __init__(self, batches: BatchSampler, *, index: int, num_workers: int, blank: Sequence[int]):
        self._batches, self._index, self._num_workers, self._blank = batches, index, num_workers, list(blank)
        self.sampler = batches.sampler  # accelerate sets the epoch on this attribute
        self.batch_size, self.drop_last = batches.batch_size, batches.drop_last

    def __len__(self) -> int:
        return -(-len(self._batches) // self._num_workers)

    def __iter__(self) -> Iterator[list[int]]:
        num_blanks = -len(self._batches) % self._num_workers
        for i, batch in enumerate(chain(self._batches, repeat(self._blank, num_blanks))):
            if i % self._num_workers == self._index:
                yield batch


class _TrainerMixin:
    """Changes to TRL's trainers: the division into workers, the optimizer, the loss term, autocast and clipping.

    TRL offers subclassing as the only way to change them, so each trainer has a subclass with this class as first base.
    """

    args: Any
    train_dataset: Any
    optimizer: Any
    make_optimizer: Callable[[], Optimizer] | None = None
    """Makes the optimizer; None for transformers' choice, AdamW."""
    loss_term: LossTerm | None = None
    """Computes the term that the method adds to the loss of a batch."""
    autocast_sharded = False
    """Whether to compute in bf16 autocast with fp32 weights that FSDP2 shards. accelerate would cast the weights
    themselves and add up gradients in bf16, which is a different training."""

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """Return the autocast context of the forward pass and the loss; without FSDP2, accelerate casts."""
        if not self.autocast_sharded:
            of_trainer: AbstractContextManager[Any] = super().autocast_smart_context_manager(cache_enabled)  # type: ignore[misc]
            return of_trainer
        return torch.autocast(self.args.device.type, dtype=torch.bfloat16)

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """Return the optimizer over the parameters that train."""
        if self.optimizer is None and self.make_optimizer is not None:
            self.optimizer = self.make_optimizer()
        optimizer: Optimizer = super().create_optimizer(model)  # type: ignore[misc]
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """Return the schedule of the learning rate; set the warm-up of an optimizer that averages the weights."""
        scheduled_optimizer: Any = self.optimizer if optimizer is None else optimizer
        for group in scheduled_optimizer.param_groups:
            if "warmup_steps" in group:
                group["warmup_steps"] = self.args.get_warmup_steps(num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)  # type: ignore[misc]

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip the gradients to train.max_grad_norm, and return the norm before clipping."""
        if (clipper := self._clipping_optimizer()) is None:
            return super()._clip_grad_norm(model)  # type: ignore[misc]
        return clipper.clip_grad_norm_(self.args.max_grad_norm)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the norm of a step's gradients; `grad_norm` is None if the gradients were not clipped."""
        if grad_norm is None and (clipper := self._clipping_optimizer()) is not None:
            grad_norm = clipper.clip_grad_norm_(math.inf)
        return super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]

    def _clipping_optimizer(self) -> ClipsGradients | None:
        """Return the optimizer if it stores the gradients itself, so that transformers can't clip them; else None."""
        inner = getattr(self.optimizer, "optimizer", self.optimizer)  # inside accelerate's wrapper
        return inner if isinstance(inner, ClipsGradients) else None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a batch, including the method's term."""
        loss: Any = super().compute_loss(  # type: ignore[misc]
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        if self.loss_term is None:
            return loss
        assert not return_outputs
        if not (share := float(self._share(inputs, num_items_in_batch))):  # a blank, whose term would be NaN
            return loss
        term = self.loss_term(inputs)
        self._metrics["train"]["extra_loss"].append(term.item())  # type: ignore[attr-defined]
        return loss + term * share

    def _share(self, inputs: dict[str, Any], num_items: Any) -> Any:
        """Return the factor of the method's term in the loss of a batch, before transformers and DDP average losses.

        If the loss is divided by the step's number of labelled tokens, DDP later divides it by the number of workers.
        Otherwise (`num_items` is None) transformers divides it by the number of micro-batches, and the factor is 1.
        """
        if num_items is None:
            return 1.0
        labels = inputs["shift_labels"] if "shift_labels" in inputs else inputs["labels"][..., 1:]
        return (labels != IGNORED).sum() * self.args.world_size / torch.as_tensor(num_items).clamp(min=1)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the mini-batches of this worker."""
        loader: Any = super().get_train_dataloader()  # type: ignore[misc]
        if self.args.world_size == 1:
            return cast("DataLoader[Any]", loader)
        examples: list[Any] = [*self.train_dataset, None]
        batches = WorkerBatches(
            loader.batch_sampler.batch_sampler,  # the mini-batches of all workers, inside accelerate's sampler
            index=self.args.process_index,
            num_workers=self.args.world_size,
            blank=[len(examples) - 1],
        )
        shard: DataLoader[Any] = DataLoaderShard(
            examples, batch_sampler=batches, collate_fn=self._collate, pin_memory=self.args.dataloader_pin_memory
        )
        return shard

    def _collate(self, examples: list[Any]) -> dict[str, Any]:
        if examples != [None]:
            return self.data_collator(examples)  # type: ignore[attr-defined,no-any-return]
        return self.blank()

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        if inputs["input_ids"].numel() == 1:  # a blank, since an example has two tokens or more
            inputs = {"input_ids": inputs["input_ids"][:, :0]}
        super()._track_num_input_tokens(inputs)  # type: ignore[misc]

    def blank(self) -> dict[str, Any]:
        """Return a blank: a mini-batch that adds nothing to a step."""
        pad = self.processing_class.pad_token_id  # type: ignore[attr-defined]
        one = torch.ones(1, 1, dtype=torch.long)
        return {"input_ids": one * pad, "labels": one * IGNORED, "attention_mask": one}


class WorkersSFTTrainer(_TrainerMixin, SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer for examples that are tokenised already."""


class WorkersDPOTrainer(_TrainerMixin, DPOTrainer):  # type: ignore[misc]
    """TRL's DPOTrainer for examples that are tokenised already; TRL's would tokenise them itself."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset
