"""SpIEL: sparse fine-tuning that replaces entries of its support (Ansell et al., arXiv 2401.16405, Section 3.2).

The support is random at first. At intervals the entries that moved least from the base return to its values, bit for
bit, and as many others replace them: of the entries with the largest gradients, those with the largest sums of
gradients over some steps. A new entry begins with the mean of these gradients, and of their squares, as moments, and
with its own age, by which the bias of Adam is corrected. The optimizer has gradients and moments of the support alone.
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
    """Trains a support of the linear layers' weights, and replaces a part of it at intervals.

    Args:
        name: the name of the method in tables.
        mask_ratio: fraction of each matrix that does not train, in [0, 1).
        refresh: the number of steps from one replacement to the next.
        collected: the number of steps before a replacement over which the candidates' gradients are added up.
        replaced: the share of the support that is replaced at the peak learning rate, in [0, 1); it falls with the
            learning rate.
        replaced_first: the share that the first replacement takes, in [0, 1].
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
    def target_density(self) -> float:
        """The fraction of the linear layers' entries that train at a step."""
        return 1 - self.mask_ratio

    @property
    def reads_micro_batches(self) -> bool:
        """Whether supports change, since the gradient of a micro-batch then chooses the entries that may join."""
        return self.mask_ratio > 0

    def make_optimizer(self, model: PreTrainedModel, groups: list[ParameterGroup]) -> Optimizer:
        """Return AdamW with state for the support alone, and with an age for each entry."""
        from gmt.optimizers.packed_adamw import PackedAdamW

        return PackedAdamW(groups, age="own")

    def faults_with_workers(self, num_workers: int) -> list[str]:
        """Return a sentence that refuses several workers, since gradients are gathered before they are averaged."""
        return [fault_of_gathering(f"for method {self.name}", num_workers)]

    def faults_with(self, optimizer: OptimizerFacts) -> list[str]:
        """Return no sentence, since the method makes its own optimizer."""
        return []

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> SpielAtWork:
        """Draw the support, and return the method at work.

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
    """A mask at work that replaces entries of its supports."""

    def __init__(self, attached: AttachedMask, supports: GrowingSupports):
        self._attached, self._supports = attached, supports

    def begin_epoch(self, epoch: int) -> None:
        """Do nothing: renewals count steps."""

    def facts(self) -> dict[str, float]:
        """Return the mask's facts."""
        return self._attached.facts()

    def num_trained(self) -> int:
        """Return the number of entries in the supports at the last step."""
        return self._attached.num_trained()

    def num_touched(self) -> int:
        """Return the number of entries that have trained so far."""
        return self._supports.num_ever()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the mask and of the renewals."""
        return {"mask": self._attached.state_dict(), "growth": self._supports.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self._attached.load_state_dict(state["mask"])
        self._supports.load_state_dict(state["growth"])

    def detach(self) -> None:
        """Stop the renewals, and remove the mask."""
        self._supports.remove()
        self._attached.detach()
