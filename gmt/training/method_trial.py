"""Tries a method on a copy of the model without weights, to refuse unsuitable methods before a run takes time.

The trial does what the beginning of a training does: the method puts its parts into the copy, its optimizer is made,
and it is attached. So every refusal that follows from settings and shapes is raised here. The weights have no values;
if the method reads one, the trial ends without a result. A method of another package only puts its parts into the copy:
its `attach` is called only in a run's process.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from transformers import PreTrainedModel

from gmt.errors import UserError
from gmt.masking.processes import in_group
from gmt.methods.probing import ProbesExamples
from gmt.methods.protocol import Method, ReshapesModel, TrainsInPhases
from gmt.plug_ins import faults_of
from gmt.training.attaching import attach_method
from gmt.training.optimizers import default_groups, make_optimizer
from gmt.training.reshaping import Examples, Reshaping, check_num_examples
from gmt.training.settings import TrainSettings
from gmt.training.structure import unchanged


def try_method(
    method: Method,
    base: PreTrainedModel,
    settings: TrainSettings,
    *,
    seed: int,
    num_rows: int,
    examples: Callable[[], Examples | None],
    must_merge: bool,
    is_checkpointed: bool = False,
) -> None:
    """Refuse a method that can't work with a model.

    Args:
        method: the run's method.
        base: the model, with or without weights; not changed.
        settings: the train group.
        seed: the seed of the method's random draws.
        num_rows: the number of rows of the training data.
        examples: returns the training's examples on the CPU, for a method that probes the model on some; it returns
            None if they are unknown.
        must_merge: whether record.keep_weights needs merged weights.
        is_checkpointed: whether the model trains with activation checkpointing.

    Raises:
        UserError: the method can't work with the model, its optimizer or its settings.
    """
    check_num_examples(method, num_rows)
    probes = isinstance(method, ProbesExamples) and method.num_examples > 0
    model: Any = without_weights(base, _fake() if probes else _on_meta)
    if is_checkpointed:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if isinstance(method, ReshapesModel):
        with faults_of("method", method, "can't reshape the model"):
            reshaping = Reshaping(method, model, seed=seed)
        if must_merge and not reshaping.is_mergeable:
            raise UserError(
                f"record.keep_weights must be true or false for method {method.name}, which can't be merged into the "
                "model's own weights, got merged"
            )
    if not type(method).__module__.startswith("gmt."):
        return  # methods of other packages are attached only in a run's process, where a crash ends only one attempt
    probed = examples() if probes else None
    if (probes and probed is None) or in_group():  # in a group, a collective call would wait for the other processes
        return
    # torch raises a RuntimeError if item() is called on the device meta, and subclasses of it if a value is read in
    # another way or memory is short; errors of any other class are bugs of the method
    with torch.random.fork_rng(devices=[]), suppress(RuntimeError):
        _attach(method, model, base, settings, seed=seed, examples=probed)


def _attach(
    method: Method,
    model: PreTrainedModel,
    base: PreTrainedModel,
    settings: TrainSettings,
    *,
    seed: int,
    examples: Examples | None,
) -> None:
    """Make the optimizer of the method's first training, attach the method, and detach it."""
    if isinstance(method, TrainsInPhases):
        method = method.begin_phase(0, model, [], base=lambda: without_weights(base))
    groups = default_groups(
        model,
        [],  # no parameters with weight decay: this makes no difference to the trial
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        betas=(settings.adam_beta1, settings.adam_beta2),
    )
    optimizer = make_optimizer(method, model, groups, name=settings.optimizer, momentum=settings.momentum)
    with unchanged(method.name, "attach", model, optimizer):
        attached = attach_method(
            method, model, optimizer, seed=seed, facts_every=0, source=lambda: iter(()), examples=examples
        )
    attached.detach()


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")


def _fake() -> Callable[[Tensor], Tensor]:
    """Return a function that makes fake tensors, with which operations compute only shapes; inputs may be real."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def empty(tensor: Tensor) -> Tensor:
        with mode:
            return torch.empty(tensor.shape, dtype=tensor.dtype)

    return empty


def without_weights(model: PreTrainedModel, empty: Callable[[Tensor], Tensor] = _on_meta) -> PreTrainedModel:
    """Return a copy of a model whose parameters and buffers take no memory.

    Args:
        model: the model.
        empty: returns a tensor without values, with the shape and dtype of its argument; by default on the device meta.
    """
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    memo: dict[int, object] = {}
    for tensor in tensors:
        is_parameter = isinstance(tensor, nn.Parameter)
        substitute = empty(tensor)
        memo[id(tensor)] = nn.Parameter(substitute, requires_grad=tensor.requires_grad) if is_parameter else substitute
    return copy.deepcopy(model, memo)
