"""Tries on a model without weights whether a method can work with it, before anything that takes long.

The method goes through the beginning of a training: it puts its parts into a copy of the model, its optimizer is made,
and it attaches. So each refusal that follows from settings and shapes is raised here. The weights have no values: where
a method reads one, the trial ends without a verdict.
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
        method: of the run.
        base: the model, with or without weights; it is left as it is.
        settings: the train group.
        seed: of the method's draws.
        num_rows: of the training data.
        examples: returns the training's examples on the CPU, for a method that probes them; None if they are not known.
        must_merge: whether record.keep_weights needs merged weights.
        is_checkpointed: whether the model trains with activation checkpointing.

    Raises:
        UserError: the method can't.
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
        return  # other packages attach in the runs' processes alone: what that kills or hangs there is tried again
    of_training = examples() if probes else None
    if (probes and of_training is None) or in_group():  # whose other processes don't try, and would wait
        return
    # torch raises a plain RuntimeError where item() is called on the device meta, and its subclasses where a value is
    # read otherwise or memory is short; errors of any other class are bugs of the method
    with torch.random.fork_rng(devices=[]), suppress(RuntimeError):
        _attach(method, model, base, settings, seed=seed, examples=of_training)


def _attach(
    method: Method,
    model: PreTrainedModel,
    base: PreTrainedModel,
    settings: TrainSettings,
    *,
    seed: int,
    examples: Examples | None,
) -> None:
    """Begin the method's first training."""
    if isinstance(method, TrainsInPhases):
        method = method.begin_phase(0, model, [], base=lambda: without_weights(base))
    groups = default_groups(  # which parameters decay is of no account here
        model,
        [],
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
    """Return a function to tensors that compute shapes, and take real batches of the CPU as inputs."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def empty(tensor: Tensor) -> Tensor:
        with mode:
            return torch.empty(tensor.shape, dtype=tensor.dtype)

    return empty


def without_weights(model: PreTrainedModel, empty: Callable[[Tensor], Tensor] = _on_meta) -> PreTrainedModel:
    """Return a copy whose parameters and buffers take no memory.

    Args:
        model: any.
        empty: returns a tensor without values, in the shape of another; by default on the device meta.
    """
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    memo: dict[int, object] = {}
    for tensor in tensors:
        is_parameter = isinstance(tensor, nn.Parameter)
        made = empty(tensor)
        memo[id(tensor)] = nn.Parameter(made, requires_grad=tensor.requires_grad) if is_parameter else made
    return copy.deepcopy(model, memo)
