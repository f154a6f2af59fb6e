"""Protocols of a model with a method's parts in it. Imports nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path


class Reshaped(Protocol):
    """A model with a method's parts in it. Unless it is `Mergeable`, it is evaluated with these parts."""

    def save(self, folder: Path) -> None:
        """Writes what was learnt, without the model's own weights, as safetensors."""
        ...


@runtime_checkable
class Mergeable(Protocol):
    """An optional part of Reshaped: the trained parts can be merged into the model's own parameters."""

    def restore(self) -> None:
        """Merges what was learnt into the model's own parameters, in place.

        The model then has the modules and the names of parameters that it had before, and is evaluated as such.
        """
        ...


@runtime_checkable
class TakesSaved(Protocol):
    """An optional part of Reshaped: its parts take what `save` wrote, so that a run can be merged later from its files.

    A complete adapter of peft's needs it not, since peft merges it.
    """

    def load(self, folder: Path) -> None:
        """Sets the trained parts, in place, to the values that `save` wrote into the folder."""
        ...


@runtime_checkable
class SwitchesOff(Protocol):
    """An optional part of Reshaped: its parts can be switched off, so that DPO needs no second model."""

    def switched_off(self) -> AbstractContextManager[None]:
        """Inside the block, the model computes the same as before it was reshaped, bit for bit."""
        ...
