"""Plain supervised fine-tuning: every parameter is updated at every step. The baseline of every study."""

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
        name: the word for it in tables.
    """

    name: str

    fits_every_model = True

    @property
    def density_asked(self) -> float:
        """Everything is updated."""
        return 1.0

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Dense:
        """Changes nothing."""
        return Dense()


class Dense:
    """Plain fine-tuning at work: nothing is masked, nothing is kept."""

    def begin_epoch(self, epoch: int) -> None:
        """Does nothing."""

    def facts(self) -> dict[str, float]:
        """Everything is updated and masking takes no time."""
        return {"density": 1.0, "mask_seconds": 0.0}

    def state_dict(self) -> dict[str, Any]:
        """Holds nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Does nothing."""

    def detach(self) -> None:
        """Does nothing."""
