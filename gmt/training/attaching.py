"""Attaches a method to a model and its optimizer, and provides the data that the method reads."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from gmt.methods.probing import ProbesExamples
from gmt.methods.protocol import Attached, Method
from gmt.methods.source_prompts import Prompts, ReadsSource
from gmt.training.reshaping import Examples


def attach_method(
    method: Method,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    seed: int,
    facts_every: int,
    source: Prompts | None,
    examples: Examples | None,
) -> Attached:
    """Return a method at work on a model and its optimizer; see `gmt.methods.protocol.Method.attach`.

    Args:
        method: the settings of the method.
        model, optimizer, seed, facts_every: as for `Method.attach`.
        source: returns source prompts, for a method that reads them.
        examples: the training examples, for a method that probes the model on some.
    """
    common: dict[str, Any] = {"seed": seed, "facts_every": facts_every}
    if isinstance(method, ReadsSource) and method.reads_source:
        assert source is not None
        return method.attach_with_source(model, optimizer, source=source, **common)
    if isinstance(method, ProbesExamples) and method.num_examples:
        assert examples is not None
        num, rows = method.num_examples, examples
        return method.attach_with_examples(
            model, optimizer, batches=lambda size: rows.batches(num, size, seed=seed), **common
        )
    return method.attach(model, optimizer, **common)
