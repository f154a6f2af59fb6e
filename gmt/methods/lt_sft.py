"""Lottery-ticket sparse fine-tuning (Ansell et al., arXiv 2110.07560, Section 3): train, score, rewind, train again.

The first phase trains everything. The entries that moved farthest from the base are chosen, the weights go back to the
base's, and the second phase trains these entries alone, with an optimizer and a schedule of its own. One iteration, the
authors' default. Departures: masked entries do not move at all, where the authors mask the gradient and AdamW's weight
decay moves them; of entries that tie at the threshold the first are chosen, so that mask_ratio holds exactly;
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
        self._gradient_mask(self.mask_ratio)

    @property
    def density_asked(self) -> float:
        """The share of entries that train in the second phase."""
        return 1 - self.mask_ratio

    @property
    def num_phases(self) -> int:
        """Two: all entries train, then the chosen ones."""
        return 2

    def faults_with(self, optimizer: OptimizerFacts) -> list[str]:
        """Return a sentence if the optimizer would move masked entries."""
        if not optimizer.averages_weights:
            return []
        return [
            f"train.optimizer must not be {optimizer.name} for method {self.name}, since it averages the weights apart "
            "from the mask, which moves masked entries"
        ]

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> AttachedMask:
        """Attaches the first phase's mask, under which every entry trains that is not excluded."""
        return self._gradient_mask(0.0).attach(model, optimizer, seed=seed, facts_every=facts_every)

    def begin_phase(
        self,
        number: int,
        model: PreTrainedModel,
        carried: Sequence[Mapping[str, Tensor]],
        *,
        base: Callable[[], PreTrainedModel],
    ) -> Method:
        """Put the base's weights back for the second phase and return the method that trains the chosen entries."""
        if number == 0:
            return self
        import torch

        start = dict(base().named_parameters())
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(start[name])
        return _SecondPhase(self._gradient_mask(self.mask_ratio), carried[0]) if self.mask_ratio else self

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
        chosen: dict[str, Tensor] = {}
        for names in groups:
            chosen |= dict(zip(names, largest([moves[name] for name in names], self.mask_ratio), strict=True))
        return {name: pack(chosen_N) for name, chosen_N in chosen.items()}

    def _gradient_mask(self, ratio: float) -> GradientMask:
        return GradientMask(
            name=self.name,
            mask_ratio=ratio,
            signal="gradient",  # has no effect: the entries are set
            scope=self.scope,
            refresh="once",
            mask_on="update",
            moments="dense",
            keep="largest",
            exclude=self.exclude,
            excluded="frozen" if self.exclude else "dense",
        )


@dataclass(frozen=True)
class _SecondPhase:
    """Trains the entries that the first phase chose: packed bool by the name of each parameter."""

    mask: GradientMask
    packed: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        """The name of the method."""
        return self.mask.name

    @property
    def density_asked(self) -> float:
        """The share of entries that train."""
        return self.mask.density_asked

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> AttachedMask:
        """Hooks the mask onto the optimizer."""
        from gmt.masking.given import set_keep_masks
        from gmt.masking.packing import unpack
        from gmt.masking.parameters import names_of

        attached = self.mask.attach(model, optimizer, seed=seed, facts_every=facts_every)
        sizes = {name: p.numel() for p, name in names_of(model).items()}
        set_keep_masks(attached.mask, {name: unpack(bits, sizes[name]) for name, bits in self.packed.items()})
        return attached


def largest(moves: Sequence[Tensor], mask_ratio: float) -> list[Tensor]:
    """Return which entries are not masked when a ratio of them is: those of the largest magnitude, and never a zero.

    Of entries that tie at the threshold the first are not masked, so that the ratio holds exactly unless there are more
    zeros.

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
    num_entries = sum(map(len, moves))
    num_chosen = num_entries - num_masked(mask_ratio, num_entries)
    num_ties = num_chosen - sum(int((as_bits(x_N) > selection.lowest).sum()) for x_N in moves)
    chosen = []
    for x_N in moves:
        bits_N = as_bits(x_N)
        tied_N = (bits_N == selection.lowest) & (bits_N > 0)
        first_N = tied_N & (torch.cumsum(tied_N, dim=0) <= num_ties)
        num_ties -= int(first_N.sum())
        chosen.append((bits_N > selection.lowest) | first_N)
    return chosen
