"""Gradients of the loss on training examples, for a merge that learns from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gmt.errors import Diverged
from gmt.merges.protocol import Formula
from gmt.runs.choose import indices_in
from gmt.runs.parents import parents_of
from gmt.runs.prepare import Prepared, only_chosen
from gmt.runs.run_context import RunContext, to_device


class MergeGradients:
    """Computes gradients at the weights of a formula, on a new mini-batch at each call (gmt.merges.protocol.Gradients).

    Args:
        context: the merge's context. Mini-batches are taken from the rows that its parent was trained on, in an order
            drawn by the run's seed and repeated without end.
        model: the model that takes the weights, in place, on the run's device.
        fill: puts the tensors of a formula into the model.
        batch_size: rows in a mini-batch.
    """

    def __init__(
        self, context: RunContext, model: PreTrainedModel, fill: Callable[[Formula], None], *, batch_size: int
    ):
        self._model, self._fill, self._device = model, fill, context.device
        self._batches = _batches(context, batch_size)
        self.losses: list[float] = []

    def __call__(self, formula: Formula) -> Mapping[str, Tensor]:
        """Return the gradients on the next mini-batch by the parameters' names, in float32 on the CPU.

        Raises:
            Diverged: the loss is NaN or Inf.
        """
        self._fill(formula)
        to_device(self._model, self._device)
        batch = {key: value.to(self._device) for key, value in next(self._batches).items()}
        parameters = dict(self._model.named_parameters())
        with torch.enable_grad():
            loss = self._model(**batch, use_cache=False).loss
        self.losses.append(float(loss.detach()))
        if not math.isfinite(self.losses[-1]):
            raise Diverged(f"the loss that the merge learns from is {self.losses[-1]} at step {len(self.losses)}")
        gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
        return {name: gradient.float().cpu() for name, gradient in zip(parameters, gradients, strict=True)}

    def facts(self) -> dict[str, float]:
        """Return the losses on the first and the last mini-batch, as metrics."""
        return {"merge/first_loss": self.losses[0], "merge/last_loss": self.losses[-1]} if self.losses else {}


def _batches(context: RunContext, size: int) -> Iterator[dict[str, Tensor]]:
    from gmt.training.paradigms import collator

    prepared = _prepared_for_parent(context)
    rows: Any = prepared.examples
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(context.run.seed)).tolist()
    collate, first = collator(context.run.train, prepared.reader.tokenizer), 0
    while True:
        batch = collate([rows[order[(first + i) % len(order)]] for i in range(size)])
        yield {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}
        first += size


def _prepared_for_parent(context: RunContext) -> Prepared:
    """Return the prepared run with the examples that the parent was trained on.

    These are all examples if the run has no selection, or if the setting `parents` names the parent.
    """
    run, prepared = context.run, context.prepared
    if run.selection is None or run.parents:
        return prepared
    (parent,) = parents_of(run)
    return only_chosen(prepared, indices_in(parent, len(prepared.examples)), run.train)
