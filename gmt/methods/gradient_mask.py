"""Gradient masking: GMT, and RMT as the same thing with a random signal. A thin plug-in around gmt.masking."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gmt import settings

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from gmt.masking import Mask


@dataclass(frozen=True, kw_only=True)
class GradientMask:
    """Masks the accumulated, clipped gradient at every optimizer step (arXiv 2406.15330, Section 3).

    Args:
        name: the word for this setting of it, e.g. `gmt` or `rmt`.
        mask_ratio: fraction of the entries that is masked, in [0, 1).
        signal: what entries are ranked by, `gradient` or `random`.
        scope: over what the ratio holds, `tensor` or `global`.
    """

    name: str
    mask_ratio: float
    signal: str
    scope: str

    def __post_init__(self) -> None:
        settings.number("method.mask_ratio", self.mask_ratio, "must lie in [0, 1)", low=0, high=1)
        settings.one_of("method.signal", self.signal, ("gradient", "random"))
        settings.one_of("method.scope", self.scope, ("tensor", "global"))

    @property
    def density_asked(self) -> float:
        """What the ratio leaves."""
        return 1 - self.mask_ratio

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int) -> MaskedGradients:
        """Hooks the mask onto the optimizer."""
        from gmt.masking import MaskSpec, attach

        spec = MaskSpec(mask_ratio=self.mask_ratio, signal=self.signal, scope=self.scope)
        return MaskedGradients(attach(model, optimizer, spec, seed=seed))


class MaskedGradients:
    """A gradient mask at work."""

    def __init__(self, mask: Mask):
        self._mask = mask

    def begin_epoch(self, epoch: int) -> None:
        """Does nothing: the mask is made anew at every step."""

    def facts(self) -> dict[str, float]:
        """The mask's facts, under the metrics' names."""
        facts = self._mask.facts()
        if facts is None:
            return {}
        values = asdict(facts)
        return {
            "density": values["density"],
            "zero_fraction": values["zero_fraction"],
            "energy_kept": values["energy_kept"],
            "mask_seconds": values["seconds"],
        }

    def state_dict(self) -> dict[str, Any]:
        """The mask's state."""
        return dict(self._mask.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the mask from a checkpoint's state."""
        self._mask.load_state_dict(state)

    def detach(self) -> None:
        """Takes the mask off the optimizer."""
        self._mask.detach()
