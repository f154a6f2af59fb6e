"""The optional protocol of a method that reads prompts of the task's source suites before its first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from gmt.methods.protocol import Attached

Prompts = Callable[[], Iterator[Mapping[str, Any]]]
"""Returns prompts, each as a batch for the model's forward pass."""


@runtime_checkable
class ReadsSource(Protocol):
    """An optional part of Method: it reads prompts of the task's source suites before its first step."""

    @property
    def reads_source(self) -> bool:
        """Whether the method reads prompts; if not, `attach` is called instead of `attach_with_source`."""
        ...

    def attach_with_source(
        self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int, source: Prompts
    ) -> Attached:
        """Attach the method, as `attach` does; in a resumed training the model has the weights of its checkpoint.

        Args:
            model, optimizer, seed, facts_every: as for `attach`.
            source: returns the prompts, each as a batch for the model's forward pass; the same on every worker.
        """
        ...
