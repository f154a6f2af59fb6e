"""What a method is to the rest of the program. Imports nothing, so that planning can read it for free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel


class Method(Protocol):
    """The settings of a method: a frozen dataclass that checks its values in `__post_init__`.

    The constructor's arguments are the method's part of the config, so a study can sweep each of them. It must
    be importable without torch: import it in `attach`.
    """

    @property
    def name(self) -> str:
        """The word for it in configs, tables and MLflow."""
        ...

    @property
    def density_asked(self) -> float | None:
        """The fraction of entries that is asked to be kept at a step; None where the method asks for no number."""
        ...

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Attached:
        """Puts the method on a model and its optimizer, just before training; both are changed in place.

        What may not change, here or later: the model's parameters, buffers and modules (neither added, removed nor
        replaced), the optimizer's parameters, and what a module computes; gmt/training/structure.py refuses it, and
        `ReshapesModel` is where it can be done. Values,
        `requires_grad`, hooks on gradients and on the optimizer, and forward hooks that only look are the method's.

        Args:
            model: to be trained.
            optimizer: over its parameters.
            seed: of the method's draws.
            facts_every: every how many steps facts that take time are asked for; 0 for never.
        """
        ...


@runtime_checkable
class ReshapesModel(Protocol):
    """An optional part of Method: it puts parts of its own into the model, such as adapters, and trains those."""

    def reshape(self, model: PreTrainedModel, *, seed: int) -> Reshaped:
        """Puts them in, in place, before the optimizer, the workers' copies and the checkpoint know the model.

        Args:
            model: on the CPU; also tried without weights, on the device `meta`, before a run starts. Of its parameters,
                those that require a gradient afterwards are trained.
            seed: of the method's draws; torch's generator of the CPU has it already.

        Raises:
            UserError: the method can't work with this model.
        """
        ...


@runtime_checkable
class ReadsExamples(Protocol):
    """An optional part of ReshapesModel: what its parts begin with depends on examples that are trained on."""

    @property
    def num_examples(self) -> int:
        """How many rows of the training data it reads; 0 for none, and `reshape` is called."""
        ...

    def reshape_by(
        self, model: PreTrainedModel, *, seed: int, batches: Callable[[int], Iterator[Mapping[str, Any]]]
    ) -> Reshaped:
        """Does what `reshape` does, called in its place on a model with weights; each attempt at a run calls it anew.

        Each worker calls it with the same examples, and each must come to the same parts.

        Args:
            model: on the device that trains it.
            seed: of the method's draws; torch's generators have it already.
            batches: makes mini-batches of so many of the examples, as the model's forward pass takes them, each time in
                the same order.

        Raises:
            UserError: the method can't work with this model or these examples.
        """
        ...


@runtime_checkable
class UsesContext(Protocol):
    """An optional part of ReshapesModel: its parts stand before each text, where they take room in the context."""

    @property
    def num_tokens(self) -> int:
        """How many of the model's positions they take."""
        ...


class Reshaped(Protocol):
    """A model with a method's parts in it. One that is no `Mergeable` is evaluated with them in it."""

    def save(self, folder: Path) -> None:
        """Writes what was learnt, without the model's own weights, as safetensors."""
        ...


@runtime_checkable
class Mergeable(Protocol):
    """An optional part of Reshaped: what was learnt can be written into the model's own parameters."""

    def restore(self) -> None:
        """Merges what was learnt into the model's own parameters, in place.

        The model then has the modules and the names of parameters that it had before, and is evaluated as such.
        """
        ...


@runtime_checkable
class SwitchesOff(Protocol):
    """An optional part of Reshaped: it can be passed over, so that a training by preferences needs no second model."""

    def switched_off(self) -> AbstractContextManager[None]:
        """Around the block, the model computes what it did before it was reshaped, bit for bit."""
        ...


class Attached(Protocol):
    """A method at work in one training."""

    def begin_epoch(self, epoch: int) -> None:
        """Called before each epoch, and again for the epoch in which a resumed training goes on.

        Args:
            epoch: counted from 0.
        """
        ...

    def facts(self) -> Mapping[str, float]:
        """What happened at the last optimizer step, as metrics; of a mask `density` and `mask_seconds` always.

        Facts that take time are there every `facts_every` steps.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold: plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint's state, whose tensors are on the CPU."""
        ...

    def detach(self) -> None:
        """Leaves model and optimizer without a trace of the method."""
        ...
