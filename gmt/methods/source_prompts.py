"""Methods that read prompts of the task's source suites before their first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from gmt.methods.protocol import Attached

Prompts = Callable[[], Iterator[Mapping[str, Any]]]
"""Returns prompts, each a batch as the model's forward pass takes it."""


@runtime_checkable
class ReadsSource(Protocol):
    """An optional part of Method: before its first step it looks at prompts of the task's source suites."""

    @property
    def reads_source(self) -> bool:
        """Whether it does with its settings; if not, `attach` is called instead of `attach_with_source`."""
        ...

    def attach_with_source(
        self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int, source: Prompts
    ) -> Attached:
        """Puts the method on, as `attach` does; a resumed training's model has the weights of its checkpoint.

        Args:
            model, optimizer, seed, facts_every: as for `attach`.
            source: returns the prompts, each a batch as the model's forward pass takes it; the same on every worker.
        """
        ...
