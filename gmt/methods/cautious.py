"""Cautious AdamW (Liang et al., arXiv 2411.16085): moves an entry only if its momentum and gradient have the same sign.

The data decide how many entries move, not a ratio; this is a control for the masks that rank. The method makes its own
optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt.methods.sft import Dense

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from gmt.masking.sampling import Index
    from gmt.methods.protocol import ParameterGroup
    from gmt.optimizers.cautious import CautiousAdamW

_MEASURED = 1 << 18  # number of sampled entries, as for a mask's facts; all entries of a smaller model


@dataclass(frozen=True, kw_only=True)
class Cautious:
    """Trains every parameter with cautious AdamW; it has no settings but those of `train`.

    Args:
        name: the method's name in tables.
    """

    name: str

    fits_every_model = True

    @property
    def target_density(self) -> None:
        """None: no share is set, since every entry whose signs agree moves."""
        return None

    def make_optimizer(self, model: PreTrainedModel, groups: list[ParameterGroup]) -> Optimizer:
        """Return cautious AdamW with the settings of `train`."""
        from gmt.optimizers.cautious import CautiousAdamW

        return CautiousAdamW(groups)

    def attach(self, model: nn.Module, optimizer: CautiousAdamW, *, seed: int, facts_every: int) -> CautiousAtWork:
        """Return an attached method that only counts the entries that move."""
        return CautiousAtWork(model, optimizer)


class CautiousAtWork(Dense):
    """Reports the optimizer's facts, and remembers which entries of a sample have ever moved."""

    def __init__(self, model: nn.Module, optimizer: CautiousAdamW):
        from gmt.masking.parameters import names_of

        self._names = names_of(model)
        self._share = min(_MEASURED / sum(p.numel() for p in self._names), 1.0)
        self._touched: dict[str, Tensor] | None = {}  # bool, for each drawn entry of a parameter
        self._optimizer = optimizer
        self._indices: dict[str, Index] = {}
        optimizer.observer = self._note_agreeing

    def facts(self) -> dict[str, float]:
        """Return the fraction of entries that the last step moved."""
        return {"kept_fraction": self._optimizer.kept_fraction}

    def num_trained(self) -> int:
        """Return the number of entries whose momentum and gradient agreed at the last step."""
        return self._optimizer.num_moved

    def num_touched(self) -> int | None:
        """Return how many entries agreed at some step, estimated from the sample; None after an older checkpoint."""
        if self._touched is None:
            return None
        sizes = {name: p.numel() for p, name in self._names.items()}
        return round(sum(sizes[name] * float(touched.float().mean()) for name, touched in self._touched.items()))

    def state_dict(self) -> dict[str, Any]:
        """Return which entries of the sample have moved."""
        return {"touched": self._touched}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state; an older state does not say which entries have moved."""
        devices = {name: p.device for p, name in self._names.items()}
        touched = state.get("touched")
        self._touched = None if touched is None else {name: x.to(devices[name]) for name, x in touched.items()}

    def detach(self) -> None:
        """Stop counting."""
        self._optimizer.observer = None

    def _note_agreeing(self, p: Any, agrees: Tensor) -> None:
        """Add the entries of the sample that agree at this step to those that agreed at some step."""
        from gmt.masking.parameters import flat
        from gmt.masking.sampling import pick, sample_index

        if self._touched is None:
            return
        name = self._names[p]
        if name not in self._indices:
            self._indices[name] = sample_index(p, name, self._share)
        agrees_S = pick(flat(agrees), self._indices[name]).bool()
        self._touched[name] = self._touched[name] | agrees_S if name in self._touched else agrees_S
