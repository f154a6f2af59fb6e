"""A method's own parameters in a model: put in before anything else is made of the model, merged when it is trained."""

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
    """Numbers of parameters, tied ones counted once.

    Args:
        num_trainable: that the optimizer is given.
        num_added: that the method has put in beside the model's own.
    """

    num_trainable: int
    num_added: int


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The training examples, for a method that reads some before it puts its parts into a model.

    Args:
        rows: of tokens, as the training has them.
        collate: makes a mini-batch of rows.
        device: the device that trains the model.
    """

    rows: Dataset | Sequence[Mapping[str, Any]]
    collate: Callable[[list[dict[str, Any]]], Mapping[str, Any]]
    device: str

    def batches(self, num_rows: int, size: int, *, seed: int) -> Iterator[Mapping[str, Any]]:
        """Make mini-batches of `size` rows, drawn by `seed` without regard to how the training cuts its steps."""
        drawn = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(seed))[:num_rows].tolist()
        for i in range(0, num_rows, size):
            batch = self.collate([self.rows[j] for j in drawn[i : i + size]])
            yield {key: value.to(self.device) for key, value in batch.items() if isinstance(value, torch.Tensor)}


class Reshaping:
    """A model in the shape in which a method trains it.

    Args:
        method: one that does not reshape leaves the model as it is.
        model: as it was loaded, on the CPU; changed in place.
        seed: of the method's draws.
        examples: of the training, for a method that reads or probes some; None where the model's shape alone matters.

    Raises:
        UserError: the method can't work with this model, or takes more examples than there are.
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
        """Return a view of the model without the method's parts, which takes no memory.

        Returns:
            None if the parts can't be switched off.
        """
        return _Reference(self._model, self._reshaped) if isinstance(self._reshaped, SwitchesOff) else None

    def save(self, folder: Path) -> None:
        """Write what the method has added, if it adds anything; before `finish`."""
        if self._reshaped is not None:
            self._reshaped.save(folder)

    def load(self, folder: Path) -> bool:
        """Set the method's parts to the values that `save` wrote, in place.

        Returns:
            False if its parts can't take them; nothing has changed then.
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
        """Return the base's parameters that are in the model, by the base's names.

        Args:
            whole: the model, with the weights of all workers.

        Returns:
            All parameters of the base; but while the method's parts are in the model, not those that they replace.
        """
        return dict(whole.named_parameters()) if self._has_base_names else self._base


class _Reference(nn.Module):
    """What TRL asks of a reference model, answered by the trained model with the method's parts switched off."""

    def __init__(self, model: PreTrainedModel, parts: SwitchesOff):
        super().__init__()
        self.config = model.config
        self._held = (model, parts)  # in a tuple, so that this has no parameters of its own

    def base_model(self, *args: Any, **kwargs: Any) -> Any:
        """Return the hidden states; TRL's head goes on from there."""
        model, parts = self._held
        is_training = model.training
        model.eval()  # type: ignore[no-untyped-call]
        try:
            with parts.switched_off():
                return model.base_model(*args, **kwargs)
        finally:
            model.train(is_training)

    def get_output_embeddings(self) -> Any:
        """Return the layer behind the hidden states, where no method of this kind has a part."""
        model: Any = self._held[0]
        return model.get_output_embeddings()


def _reshaped(method: Method, model: PreTrainedModel, seed: int, examples: Examples | None) -> Reshaped | None:
    if examples is not None:
        check_num_examples(method, len(examples.rows))  # again, since a selection may have removed rows
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
