"""Lottery-ticket sparse fine-tuning (Ansell et al., arXiv 2110.07560, Section 3): train, score, rewind, train again.

The first phase trains everything. The entries that moved farthest from the base are kept, the weights go back to the
base's, and the second phase trains these entries alone, with an optimizer and a schedule of its own. One iteration, the
authors' default. Departures: masked entries do not move at all, where the authors mask the gradient and AdamW's weight
decay moves them; of entries that tie at the threshold the first are kept, so that no more train than are asked for;
both phases take train.num_epochs. The authors freeze layer norms: method.exclude=['*norm*'] does so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.methods.gradient_mask import AttachedMask, GradientMask
from gmt.methods.protocol import OptimizerFacts

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from gmt.methods.protocol import Method

_SCOPES = ("tensor", "global")


@dataclass(frozen=True, kw_only=True)
class LotteryTicket:
    """Trains the entries that a first training moved most, from the base's weights.

    Args:
        name: the word for it in tables.
        mask_ratio: fraction of the entries that do not train in the second phase, in [0, 1).
        scope: over what the ratio holds: all entries together (`global`, as in the paper) or each `tensor`.
        exclude: patterns (as in a shell) of names of parameters that train in neither phase.
    """

    name: str
    mask_ratio: float
    scope: str
    exclude: Sequence[str]

    def __post_init__(self) -> None:
        settings.one_of("method.scope", self.scope, _SCOPES)
        self._mask(self.mask_ratio)

    @property
    def density_asked(self) -> float:
        """What the ratio leaves in the second phase."""
        return 1 - self.mask_ratio

    @property
    def num_phases(self) -> int:
        """Of everything, and of what it has found."""
        return 2

    def faults_with(self, optimizer: OptimizerFacts) -> list[str]:
        """Say where masked entries can't stand still."""
        if not optimizer.averages_weights:
            return []
        return [
            f"train.optimizer must not be {optimizer.name} for method {self.name}, whose masked entries stand still, "
            "since it averages the weights apart from the mask"
        ]

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> AttachedMask:
        """The first phase: everything trains that is not excluded."""
        return self._mask(0.0).attach(model, optimizer, seed=seed, facts_every=facts_every)

    def begin_phase(
        self,
        number: int,
        model: PreTrainedModel,
        carried: Sequence[Mapping[str, Tensor]],
        *,
        base: Callable[[], PreTrainedModel],
    ) -> Method:
        """Put the base's weights back for the second phase; it trains the entries that the first has found."""
        if number == 0:
            return self
        import torch

        start = dict(base().named_parameters())
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(start[name])
        return _Found(self._mask(self.mask_ratio), carried[0]) if self.mask_ratio else self

    def end_phase(
        self, number: int, model: PreTrainedModel, *, base: Callable[[], PreTrainedModel]
    ) -> Mapping[str, Tensor]:
        """Return the entries that moved farthest, eight to a byte, by the name of their parameter."""
        from gmt.masking.packing import pack
        from gmt.masking.parameters import is_excluded

        start = dict(base().named_parameters())
        moves = {
            name: (p.detach().cpu().float() - start[name].detach().float()).flatten()
            for name, p in model.named_parameters()
            if not is_excluded(name, tuple(self.exclude))
        }
        groups = [list(moves)] if self.scope == "global" else [[name] for name in moves]
        kept: dict[str, Tensor] = {}
        for names in groups:
            kept |= dict(zip(names, largest([moves[name] for name in names], self.mask_ratio), strict=True))
        return {name: pack(kept_N) for name, kept_N in kept.items()}

    def _mask(self, ratio: float) -> GradientMask:
        return GradientMask(
            name=self.name,
            mask_ratio=ratio,
            signal="gradient",  # nothing is ranked: the mask is given
            scope=self.scope,
            refresh="once",
            mask_on="update",
            moments="dense",
            keep="largest",
            exclude=self.exclude,
            excluded="frozen" if self.exclude else "dense",
        )


@dataclass(frozen=True)
class _Found:
    """The second phase: a mask that the first one has found, packed, by the name of each parameter."""

    settings: GradientMask
    packed: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        """The method's."""
        return self.settings.name

    @property
    def density_asked(self) -> float:
        """What the ratio leaves."""
        return self.settings.density_asked

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> AttachedMask:
        """Hooks the mask onto the optimizer."""
        from gmt.masking.given import give
        from gmt.masking.packing import unpack
        from gmt.masking.parameters import names_of

        attached = self.settings.attach(model, optimizer, seed=seed, facts_every=facts_every)
        sizes = {name: p.numel() for p, name in names_of(model).items()}
        give(attached.mask, {name: unpack(bits, sizes[name]) for name, bits in self.packed.items()})
        return attached


def largest(moves: Sequence[Tensor], mask_ratio: float) -> list[Tensor]:
    """Return which entries stay when a ratio of all of them is masked: those of largest magnitude, never a zero.

    Of entries that tie at the threshold the first stay, so that as many stay as the ratio says, or all that are not
    zero.

    Args:
        moves: float32 on the CPU, each of shape [N].

    Returns:
        bool of shape [N] for each.
    """
    import torch

    from gmt.masking.counting import as_bits
    from gmt.masking.rule import CHUNK, Scores, num_masked
    from gmt.masking.selection import select

    scores = [
        Scores(
            chunks=lambda x_N=x_N: iter(x_N.split(CHUNK)),  # type: ignore[misc]
            dtype=x_N.dtype,
            num_entries=len(x_N),
            shards=None,
            device=x_N.device,
        )
        for x_N in moves
    ]
    (selection,) = select([scores], mask_ratio)
    num_left = sum(len(x_N) for x_N in moves) - num_masked(mask_ratio, sum(len(x_N) for x_N in moves))
    num_ties_left = num_left - sum(int((as_bits(x_N) > selection.lowest).sum()) for x_N in moves)
    kept = []
    for x_N in moves:
        bits_N = as_bits(x_N)
        tied_N = (bits_N == selection.lowest) & (bits_N > 0)
        first_N = tied_N & (torch.cumsum(tied_N, dim=0) <= num_ties_left)
        num_ties_left -= int(first_N.sum())
        kept.append((bits_N > selection.lowest) | first_N)
    return kept
