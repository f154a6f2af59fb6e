"""A method's own parameters in a model: put in before anything else is made of the model, merged when it is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from gmt.methods.protocol import Method, Reshaped, ReshapesModel
from gmt.training.structure import check_layout, layout


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of parameters, tied ones counted once.

    Args:
        num_trainable: that the optimizer is given.
        num_added: that the method has put in beside the model's own.
    """

    num_trainable: int
    num_added: int


class Reshaping:
    """A model in the shape in which a method trains it.

    Args:
        method: one that does not reshape leaves the model as it is.
        model: as it was loaded, on the CPU; changed in place.
        seed: of the method's draws.

    Raises:
        UserError: the method can't work with this model.
    """

    def __init__(self, method: Method, model: PreTrainedModel, *, seed: int):
        self._method, self._model = method, model
        self._layout = layout(model)
        self._is_trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        before = model.num_parameters()
        self._reshaped: Reshaped | None = None
        if isinstance(method, ReshapesModel):
            with _drawing(seed):
                self._reshaped = method.reshape(model, seed=seed)
        self.sizes = Sizes(
            num_trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
            num_added=model.num_parameters() - before,
        )

    def save(self, folder: Path) -> None:
        """Write what the method has added, if it adds anything; before `restore`."""
        if self._reshaped is not None:
            self._reshaped.save(folder)

    def restore(self) -> None:
        """Merge what was learnt into the model's own parameters.

        Raises:
            UserError: the method leaves the model with other parts than it had.
        """
        if self._reshaped is None:
            return
        self._reshaped.restore()
        check_layout(self._method.name, self._layout, self._model, "after restore")
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(self._is_trained[name])


def check_reshaping(method: Method, base: Callable[[], PreTrainedModel], *, seed: int) -> None:
    """Try on a copy without weights whether a method can work with a model, before anything that takes long.

    Raises:
        UserError: it can't.
    """
    if isinstance(method, ReshapesModel):
        Reshaping(method, without_weights(base()), seed=seed)


def without_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy whose parameters and buffers take no memory."""
    tensors: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    memo: dict[int, object] = {}
    for tensor in tensors:
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_parameter else empty
    return copy.deepcopy(model, memo)


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Draw from a seed, on the CPU, and leave the generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
