"""Puts a method's own parameters into a model before the optimizer is made, and merges them after the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from gmt.errors import UserError
from gmt.methods.probing import ProbesExamples
from gmt.methods.protocol import Method, ReadsExamples, ReshapesModel
from gmt.methods.reshaped import Mergeable, Reshaped, SwitchesOff, TakesSaved
from gmt.training.structure import check_layout, layout


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of parameters; tied parameters are counted once.

    Args:
        num_trainable: the number of parameters that train.
        num_added: the number of parameters that the method has added to the model's own.
    """

    num_trainable: int
    num_added: int


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The training examples, for a method that reads some before the training.

    Args:
        rows: the tokenised examples of the training.
        collate: makes a mini-batch from rows.
        device: the device that trains the model.
    """

    rows: Dataset | Sequence[Mapping[str, Any]]
    collate: Callable[[list[dict[str, Any]]], Mapping[str, Any]]
    device: str

    def batches(self, num_rows: int, size: int, *, seed: int) -> Iterator[Mapping[str, Any]]:
        """Yield mini-batches of `size` rows; the draw depends on `seed` only, not on the training's batch size."""
        drawn = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(seed))[:num_rows].tolist()
        for i in range(0, num_rows, size):
            batch = self.collate([self.rows[j] for j in drawn[i : i + size]])
            yield {key: value.to(self.device) for key, value in batch.items() if isinstance(value, torch.Tensor)}


class Reshaping:
    """A model into which a method has put its parts, if it has any.

    Args:
        method: the method; if it does not reshape models, the model is not changed.
        model: the model as it was loaded, on the CPU; changed in place.
        seed: the seed of the method's random draws.
        examples: the training examples, for a method that reads or probes some; None if only the model's shape matters.

    Raises:
        UserError: the method can't work with this model, or reads more examples than there are.
    """

    def __init__(self, method: Method, model: PreTrainedModel, *, seed: int, examples: Examples | None = None):
        self._method, self._model = method, model
        self._layout = layout(model)
        base = dict(model.named_parameters())
        self._has_base_names = not isinstance(method, ReshapesModel)
        self._is_trained = {name: parameter.requires_grad for name, parameter in base.items()}
        before = model.num_parameters()
        self._reshaped = _reshaped(method, model, seed, examples)
        remaining = {id(parameter) for parameter in model.parameters()}
        self._base = {name: parameter for name, parameter in base.items() if id(parameter) in remaining}
        self.sizes = Sizes(
            num_trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
            num_added=model.num_parameters() - before,
        )

    @property
    def has_parts(self) -> bool:
        """Whether the method has put parts of its own into the model."""
        return self._reshaped is not None

    @property
    def is_mergeable(self) -> bool:
        """Whether the trained parts, if any, can be merged into the model's own parameters."""
        return self._reshaped is None or isinstance(self._reshaped, Mergeable)

    def reference(self) -> nn.Module | None:
        """Return DPO's reference model: the model with its parts switched off, which takes no further memory.

        Returns:
            None if the parts can't be switched off.
        """
        return _Reference(self._model, self._reshaped) if isinstance(self._reshaped, SwitchesOff) else None

    def save(self, folder: Path) -> None:
        """Write the method's parts, if it has any; must be called before `finish`."""
        if self._reshaped is not None:
            self._reshaped.save(folder)

    def load(self, folder: Path) -> bool:
        """Set the method's parts to the values that `save` wrote, in place.

        Returns:
            False if the method has no parts that can be loaded; then nothing is changed.
        """
        if not isinstance(self._reshaped, TakesSaved):
            return False
        self._reshaped.load(folder)
        return True

    def finish(self) -> None:
        """Merge the trained parts into the model's own parameters if they can be merged; else leave them in.

        Raises:
            UserError: the method leaves the model with other parts than it had.
        """
        if isinstance(self._reshaped, Mergeable):
            self._reshaped.restore()
            check_layout(self._method.name, self._layout, self._model, "after restore")
            self._base, self._has_base_names = dict(self._model.named_parameters()), True
        for name, parameter in self._base.items():
            parameter.requires_grad_(self._is_trained[name])

    def base_parameters(self, whole: PreTrainedModel) -> Mapping[str, nn.Parameter]:
        """Return the base's parameters in the model, by their names in the base.

        Args:
            whole: the model, with whole weights.

        Returns:
            All parameters of the base; while the method's parts are in the model, without those that they replace.
        """
        return dict(whole.named_parameters()) if self._has_base_names else self._base


class _Reference(nn.Module):
    """The attributes that TRL reads from a reference model, computed by the model with its parts switched off."""

    def __init__(self, model: PreTrainedModel, parts: SwitchesOff):
        super().__init__()
        self.config = model.config
        self._model_and_parts = (model, parts)  # in a tuple, so that this module does not register their parameters

    def base_model(self, *args: Any, **kwargs: Any) -> Any:
        """Return the hidden states, to which TRL applies the output head."""
        model, parts = self._model_and_parts
        is_training = model.training
        model.eval()  # type: ignore[no-untyped-call]
        try:
            with parts.switched_off():
                return model.base_model(*args, **kwargs)
        finally:
            model.train(is_training)

    def get_output_embeddings(self) -> Any:
        """Return the output head, in which no method with such parts has a part."""
        model: Any = self._model_and_parts[0]
        return model.get_output_embeddings()


def _reshaped(method: Method, model: PreTrainedModel, seed: int, examples: Examples | None) -> Reshaped | None:
    if examples is not None:
        check_num_examples(method, len(examples.rows))  # a second check, since a selection may have removed rows
    if not isinstance(method, ReshapesModel):
        return None
    if examples is None or not isinstance(method, ReadsExamples) or not method.num_examples:
        with _seeded(seed, "cpu"):
            return method.reshape(model, seed=seed)
    num_examples = method.num_examples
    model.to(examples.device)  # type: ignore[arg-type]  # transformers wraps the method and loses its signature
    with _seeded(seed, examples.device):
        return method.reshape_by(model, seed=seed, batches=lambda size: examples.batches(num_examples, size, seed=seed))


def check_num_examples(method: Method, num_rows: int) -> None:
    """Raise UserError if a method reads or probes more examples than the training has rows."""
    if isinstance(method, ReadsExamples | ProbesExamples) and method.num_examples > num_rows:
        raise UserError(
            f"method.num_examples must be at most {num_rows}, the rows of the training data, got {method.num_examples}"
        )


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """Seed torch's generators of the CPU and a device inside the block, and restore their states after it."""
    devices = [] if device == "cpu" else [torch.cuda.current_device()]
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed(seed)
        yield
