"""Protocols of a model with a method's parts in it. Imports nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path


class Reshaped(Protocol):
    """A model with a method's parts in it; unless it is `Mergeable`, it is evaluated with these parts."""

    def save(self, folder: Path) -> None:
        """Write the learnt tensors as safetensors, without the model's own weights."""
        ...


@runtime_checkable
class Mergeable(Protocol):
    """An optional part of Reshaped: the trained parts can be merged into the model's own parameters."""

    def restore(self) -> None:
        """Merge the learnt tensors into the model's own parameters, in place.

        Afterwards the model has its original modules and parameter names, and is evaluated in that form.
        """
        ...


@runtime_checkable
class TakesSaved(Protocol):
    """An optional part of Reshaped: its parts can be loaded from saved files, so that a run can be merged later.

    A complete adapter of the peft library does not need this, since peft merges it.
    """

    def load(self, folder: Path) -> None:
        """Set the trained parts, in place, to the values that `save` wrote into the folder."""
        ...


@runtime_checkable
class SwitchesOff(Protocol):
    """An optional part of Reshaped: its parts can be switched off, so that DPO needs no second model."""

    def switched_off(self) -> AbstractContextManager[None]:
        """Make the model compute, inside the block, the same as before it was reshaped, bit for bit."""
        ...
