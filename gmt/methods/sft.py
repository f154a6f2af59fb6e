"""Plain supervised fine-tuning, which updates every parameter at every step: the baseline of every study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True)
class Sft:
    """Supervised fine-tuning of all parameters; it has no settings.

    Args:
        name: the method's name in tables.
    """

    name: str

    fits_every_model = True

    @property
    def target_density(self) -> float:
        """1: every step updates all entries."""
        return 1.0

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Dense:
        """Return an attached method that does nothing."""
        return Dense()


class Dense:
    """Plain fine-tuning at work: it masks nothing and has no state."""

    def begin_epoch(self, epoch: int) -> None:
        """Do nothing."""

    def facts(self) -> dict[str, float]:
        """Return a density of 1 and no time for masking."""
        return {"density": 1.0, "mask_seconds": 0.0}

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing."""

    def detach(self) -> None:
        """Do nothing."""
