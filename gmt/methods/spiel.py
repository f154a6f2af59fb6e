"""SpIEL: a sparse fine-tuning that grows and drops entries (Ansell et al., arXiv 2401.16405, Section 3.2).

The support begins at random. Every so many steps the entries that moved least from the base return to its values, bit
for bit, and as many others take their place: of the entries with the largest gradients, those whose gradients added up
to the most over some steps. Newcomers begin with the mean of these gradients and of their squares as moments, and with
an age of their own, by which the bias of Adam is corrected. The optimizer holds gradients and moments of the support
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from gmt import settings
from gmt.errors import UserError
from gmt.methods.gradient_mask import AttachedMask, GradientMask, fault_of_gathering

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from gmt.methods.growth import GrowingSupports
    from gmt.methods.protocol import OptimizerFacts, ParameterGroup


@dataclass(frozen=True, kw_only=True)
class Spiel:
    """Trains a support of the linear layers' weights that is renewed in part.

    Args:
        name: the word for it in tables.
        mask_ratio: fraction of each matrix that does not train, in [0, 1).
        refresh: steps from one renewal to the next.
        collected: the last steps before a renewal, over which the gradients of candidates are added up.
        replaced: share of the support that a renewal replaces at the peak learning rate, in [0, 1); it falls with the
            learning rate.
        replaced_first: the same of the first renewal, in [0, 1].
        exclude: patterns (as in a shell) of names of parameters that do not train.
    """

    name: str
    mask_ratio: float
    refresh: int
    collected: int
    replaced: float
    replaced_first: float
    exclude: Sequence[str]

    parameters = "linear_alone"  # of gmt.masking.MaskSpec

    def __post_init__(self) -> None:
        self._mask()
        settings.integer("method.refresh", self.refresh, low=1)
        settings.integer("method.collected", self.collected, low=1)
        if self.collected > self.refresh:
            raise UserError(f"method.collected must be at most method.refresh={self.refresh}, got {self.collected}")
        settings.number("method.replaced", self.replaced, "must lie in [0, 1)", low=0, high=1)
        rule = "must lie in [0, 1]"
        settings.number("method.replaced_first", self.replaced_first, rule, low=0, high=1, open_high=False)

    @property
    def density_asked(self) -> float:
        """The share of the linear layers' entries that trains at a step."""
        return 1 - self.mask_ratio

    @property
    def reads_micro_batches(self) -> bool:
        """Whether supports are renewed: the gradient of a micro-batch chooses the entries that may join."""
        return self.mask_ratio > 0

    def make_optimizer(self, model: PreTrainedModel, groups: list[ParameterGroup]) -> Optimizer:
        """Return AdamW whose state is of the support alone, with an age for each entry."""
        from gmt.optimizers.packed_adamw import PackedAdamW

        return PackedAdamW(groups, age="own")

    def faults_with_workers(self, num_workers: int) -> list[str]:
        """Return a sentence: gradients are gathered before several workers could average them."""
        return [fault_of_gathering(f"for method {self.name}", num_workers)]

    def faults_with(self, optimizer: OptimizerFacts) -> list[str]:
        """Return no sentence: the optimizer is the method's own."""
        return []

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> SpielAtWork:
        """Draws the support and begins to renew it.

        Raises:
            UserError: the mask can't work with this model.
        """
        from gmt.methods.growth import GrowingSupports, Renewal

        renewal = Renewal(
            every=self.refresh,
            num_collected=self.collected,
            share=self.replaced,
            first_share=self.replaced_first,
        )
        attached = self._mask().attach(model, optimizer, seed=seed, facts_every=facts_every)
        return SpielAtWork(attached, GrowingSupports(renewal, model, cast(Any, optimizer), cast(Any, attached.mask)))

    def _mask(self) -> GradientMask:
        return GradientMask(
            name=self.name,
            mask_ratio=self.mask_ratio,
            signal="random",
            scope="tensor",
            refresh="once",
            mask_on="update",
            moments="packed",
            keep="largest",
            exclude=self.exclude,
            excluded="frozen" if self.exclude else "dense",
            parameters=self.parameters,
        )


class SpielAtWork:
    """A mask at work whose supports grow and drop entries."""

    def __init__(self, attached: AttachedMask, supports: GrowingSupports):
        self._attached, self._supports = attached, supports

    def begin_epoch(self, epoch: int) -> None:
        """Does nothing: renewals count steps."""

    def facts(self) -> dict[str, float]:
        """The mask's facts."""
        return self._attached.facts()

    def num_trained(self) -> int:
        """The entries of the supports at the last step."""
        return self._attached.num_trained()

    def num_touched(self) -> int:
        """The entries that have trained so far."""
        return self._supports.num_ever()

    def state_dict(self) -> dict[str, Any]:
        """The state of the mask and of the renewals."""
        return {"mask": self._attached.state_dict(), "growth": self._supports.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint's state."""
        self._attached.load_state_dict(state["mask"])
        self._supports.load_state_dict(state["growth"])

    def detach(self) -> None:
        """Ends the renewals and takes the mask off."""
        self._supports.remove()
        self._attached.detach()
