"""The mini-batches of one worker of several: together, those that a single one would see in the same step.

accelerate deals mini-batches out in turn too, but where they don't come out even at the end of an epoch it fills up
with examples from its beginning, which a single worker would not see twice. Here a blank fills up: one padding token
without a label, which adds nothing to the loss, to the gradient or to the count of tokens.
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
    """Every `num_workers`-th mini-batch; each worker has as many."""

    def __init__(self, batches: BatchSampler, *, index: int, num_workers: int, blank: Sequence[int]):
        self._batches, self._index, self._num_workers, self._blank = batches, index, num_workers, list(blank)
        self.sampler = batches.sampler  # where accelerate looks for what it tells the epoch
        self.batch_size, self.drop_last = batches.batch_size, batches.drop_last

    def __len__(self) -> int:
        return -(-len(self._batches) // self._num_workers)

    def __iter__(self) -> Iterator[list[int]]:
        num_blanks = -len(self._batches) % self._num_workers
        for i, batch in enumerate(chain(self._batches, repeat(self._blank, num_blanks))):
            if i % self._num_workers == self._index:
                yield batch


class _Workers:
    """What is ours in a trainer of TRL: its workers see in a step what a single one would see.

    TRL's trainers are changed by subclasses only, so this stands before each of them.
    """

    args: Any
    train_dataset: Any
    optimizer: Any
    make_optimizer: Callable[[], Optimizer] | None = None
    """Makes the optimizer; None for transformers' choice, AdamW."""
    loss_term: LossTerm | None = None
    """Computes the term that the method adds to the loss of a batch."""
    autocast_sharded = False
    """Whether to compute in bf16 autocast over fp32 weights where FSDP2 shards them. accelerate would cast the weights
    themselves there, and add up gradients in bf16: another training."""

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """Around forward and loss; without FSDP2 it is accelerate that casts."""
        if not self.autocast_sharded:
            plain: AbstractContextManager[Any] = super().autocast_smart_context_manager(cache_enabled)  # type: ignore[misc]
            return plain
        return torch.autocast(self.args.device.type, dtype=torch.bfloat16)

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """Return the optimizer over the parameters that train."""
        if self.optimizer is None and self.make_optimizer is not None:
            self.optimizer = self.make_optimizer()
        optimizer: Optimizer = super().create_optimizer(model)  # type: ignore[misc]
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """Return the schedule of the learning rate; set the warm-up of an optimizer that averages the weights."""
        scheduled: Any = self.optimizer if optimizer is None else optimizer
        for group in scheduled.param_groups:
            if "warmup_steps" in group:
                group["warmup_steps"] = self.args.get_warmup_steps(num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)  # type: ignore[misc]

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clip to train.max_grad_norm and return the norm before it."""
        if (own := self._own_clipping()) is None:
            return super()._clip_grad_norm(model)  # type: ignore[misc]
        return own.clip_grad_norm_(self.args.max_grad_norm)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the norm of a step's gradients, which nothing has clipped if it is not known yet."""
        if grad_norm is None and (own := self._own_clipping()) is not None:
            grad_norm = own.clip_grad_norm_(math.inf)
        return super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]

    def _own_clipping(self) -> ClipsGradients | None:
        """Return the optimizer if it holds the gradients itself, where transformers' clipping does not see them."""
        inner = getattr(self.optimizer, "optimizer", self.optimizer)  # inside accelerate's wrapper
        return inner if isinstance(inner, ClipsGradients) else None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a batch and the method's term."""
        loss: Any = super().compute_loss(  # type: ignore[misc]
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        if self.loss_term is None:
            return loss
        assert not return_outputs
        if not (share := float(self._share(inputs, num_items_in_batch))):  # a blank, whose mean is NaN
            return loss
        term = self.loss_term(inputs)
        self._metrics["train"]["extra_loss"].append(term.item())  # type: ignore[attr-defined]
        return loss + term * share

    def _share(self, inputs: dict[str, Any], num_items: Any) -> Any:
        """Return a batch's share of its step before transformers and DDP average.

        A loss that counts the step's labelled tokens is divided by the number of workers later, by DDP; any other is
        divided by the number of batches too, by transformers.
        """
        if num_items is None:
            return 1.0
        labels = inputs["shift_labels"] if "shift_labels" in inputs else inputs["labels"][..., 1:]
        return (labels != IGNORED).sum() * self.args.world_size / torch.as_tensor(num_items).clamp(min=1)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The mini-batches of this worker."""
        loader: Any = super().get_train_dataloader()  # type: ignore[misc]
        if self.args.world_size == 1:
            return cast("DataLoader[Any]", loader)
        examples: list[Any] = [*self.train_dataset, None]
        batches = WorkerBatches(
            loader.batch_sampler.batch_sampler,  # accelerate's share of them -> all of them
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
        if inputs["input_ids"].numel() == 1:  # a blank: an example has a prompt and an end
            inputs = {"input_ids": inputs["input_ids"][:, :0]}
        super()._track_num_input_tokens(inputs)  # type: ignore[misc]

    def blank(self) -> dict[str, Any]:
        """A mini-batch that weighs nothing."""
        pad = self.processing_class.pad_token_id  # type: ignore[attr-defined]
        one = torch.ones(1, 1, dtype=torch.long)
        return {"input_ids": one * pad, "labels": one * IGNORED, "attention_mask": one}


class WorkersSFTTrainer(_Workers, SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer over rows of tokens."""


class WorkersDPOTrainer(_Workers, DPOTrainer):  # type: ignore[misc]
    """TRL's DPOTrainer over rows of tokens, which it would make itself."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset
