"""Lottery-ticket sparse fine-tuning (Ansell et al., arXiv 2110.07560, Section 3): train, score, rewind, train again.

In each iteration a first phase trains everything. Then the entries that moved farthest from the base are chosen, the
weights are set back to those before the iteration, and a second phase trains the chosen entries alone, with a new
optimizer and schedule. A later iteration chooses among the entries that no earlier iteration has chosen.

LoTA (Panda et al., arXiv 2406.16797) is one iteration that ranks the matrices of attention and feed-forward parts.

Departures: masked entries do not move at all, where the authors mask the gradient and AdamW's weight decay moves them;
of entries that tie at the threshold the first are chosen, so that mask_ratio holds exactly; each phase takes
train.num_epochs. The authors of LT-SFT freeze layer norms, as method.exclude=['*norm*'] does. LoTA's authors train all
parameters in the first phase, and step RMSprop inside the backward pass; here parameters that are not ranked train in
neither phase, and train.optimizer is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.errors import UserError
from gmt.methods.gradient_mask import AttachedMask, GradientMask, faults_of_averaging
from gmt.methods.protocol import OptimizerFacts

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from gmt.methods.protocol import Method

_SCOPES = ("tensor", "global")
_PARAMETERS = ("all", "linear_alone")


@dataclass(frozen=True, kw_only=True)
class LotteryTicket:
    """Trains, from the base's weights, the entries that a first training moved most.

    Args:
        name: the name of the method in tables.
        mask_ratio: fraction of the entries that do not train in the second phase, in [0, 1).
        scope: whether the ratio holds over all entries together (`global`, as in the paper) or in each `tensor`.
        exclude: patterns (as in a shell) of names of parameters that train in neither phase.
        num_iterations: the number of iterations, each of which chooses an equal part of the entries; at least 1, and at
            most the number of chosen entries.
        parameters: the parameters that are ranked: `all`, or the weights of linear layers inside numbered layers
            (`linear_alone`); the other parameters then train in neither phase.
    """

    name: str
    mask_ratio: float
    scope: str
    exclude: Sequence[str]
    num_iterations: int = settings.neutral(1)
    parameters: str = settings.neutral("all")

    def __post_init__(self) -> None:
        settings.one_of("method.scope", self.scope, _SCOPES)
        settings.integer("method.num_iterations", self.num_iterations, low=1)
        settings.one_of("method.parameters", self.parameters, _PARAMETERS)
        self._gradient_mask(self.mask_ratio)

    @property
    def target_density(self) -> float:
        """The fraction of entries that train in the second phase."""
        return 1 - self.mask_ratio

    @property
    def num_phases(self) -> int:
        """Two phases for each iteration: all entries train, then the chosen ones."""
        return 2 * self.num_iterations

    def faults_with(self, optimizer: OptimizerFacts) -> list[str]:
        """Return a sentence if the optimizer would move masked entries."""
        return faults_of_averaging(self.name, optimizer)

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> AttachedMask:
        """Attach the first phase's mask, under which every entry that is not excluded trains.

        Raises:
            UserError: the mask can't work with this model, or an iteration would choose no entry.
        """
        sizes = [p.numel() for p in self._ranked(model).values()]
        largest_group = sum(sizes) if self.scope == "global" else max(sizes, default=0)
        if self.num_iterations > 1 and self.num_iterations > (
            most := self._num_chosen(largest_group, self.num_iterations)
        ):
            where = "" if self.scope == "global" else " in the largest tensor"
            raise UserError(
                f"method.num_iterations must be at most {most}, the number of entries that are chosen{where}, got "
                f"{self.num_iterations}"
            )
        return self._gradient_mask(0.0).attach(model, optimizer, seed=seed, facts_every=facts_every)

    def begin_phase(
        self,
        number: int,
        model: PreTrainedModel,
        carried: Sequence[Mapping[str, Tensor]],
        *,
        base: Callable[[], PreTrainedModel],
    ) -> Method:
        """Restore the weights before the iteration, and return the method that trains all or the chosen entries."""
        import torch

        if number == 0:
            return self
        iteration, is_second = divmod(number, 2)
        start = dict(base().named_parameters())
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(start[name])
                if iteration and name in carried[2 * iteration - 1]:
                    chosen_N = _unpacked(carried[2 * iteration - 2], name, p)
                    p.view(-1)[chosen_N] = carried[2 * iteration - 1][name].to(p.device)
        if not is_second or (not self.mask_ratio and number == self.num_phases - 1):
            return self
        return _SecondPhase(self._gradient_mask(self._ratio_after(iteration)), carried[-1])

    def end_phase(
        self,
        number: int,
        model: PreTrainedModel,
        carried: Sequence[Mapping[str, Tensor]],
        *,
        base: Callable[[], PreTrainedModel],
    ) -> Mapping[str, Tensor]:
        """Return, by parameter, the entries chosen so far as packed bits; after a second phase, their weights."""
        if number % 2:
            named = dict(model.named_parameters())
            return {
                name: named[name].detach().view(-1)[_unpacked(carried[-1], name, named[name])] for name in carried[-1]
            }
        from gmt.masking.packing import pack

        moves = self._moves(model, base())
        before = {name: _unpacked(carried[-2], name, moves[name]) for name in moves} if number else {}
        for name, chosen_N in before.items():
            moves[name][chosen_N] = 0  # an entry that has not moved is never chosen
        groups = [list(moves)] if self.scope == "global" else [[name] for name in moves]
        chosen: dict[str, Tensor] = {}
        for names in groups:
            num_entries = sum(len(moves[name]) for name in names)
            num_new = self._num_chosen(num_entries, number // 2 + 1) - self._num_chosen(num_entries, number // 2)
            chosen |= dict(zip(names, largest([moves[name] for name in names], num_new), strict=True))
        return {name: pack(chosen_N | before[name] if before else chosen_N) for name, chosen_N in chosen.items()}

    def _moves(self, model: PreTrainedModel, base: PreTrainedModel) -> dict[str, Tensor]:
        """Return how far each ranked entry is from the base: float32 on the CPU of shape [N], by parameter."""
        start = dict(base.named_parameters())
        return {
            name: (p.detach().cpu().float() - start[name].detach().float()).flatten()
            for name, p in self._ranked(model).items()
        }

    def _ranked(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return the parameters whose entries are chosen, by name."""
        from gmt.masking.parameters import excluded_parameters, names_of

        names = names_of(model)
        excluded, _ = excluded_parameters(model, names, self._gradient_mask(self.mask_ratio).spec())
        return {name: p for p, name in names.items() if p not in excluded}

    def _num_chosen(self, num_entries: int, num_iterations: int) -> int:
        """Return how many of a group's entries are chosen after a number of iterations."""
        from gmt.masking.rule import num_masked

        num_chosen = num_entries - num_masked(self.mask_ratio, num_entries)
        return num_chosen * num_iterations // self.num_iterations

    def _ratio_after(self, iteration: int) -> float:
        """Return the fraction of the entries that do not train in the second phase of an iteration, from 0."""
        if iteration == self.num_iterations - 1:
            return self.mask_ratio
        return 1 - (1 - self.mask_ratio) * (iteration + 1) / self.num_iterations

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
            parameters=self.parameters,
        )


@dataclass(frozen=True)
class _SecondPhase:
    """Trains the entries that the first phase chose.

    Args:
        mask: the settings of the mask over these entries.
        packed: the chosen entries, as packed bits by the name of each parameter.
    """

    mask: GradientMask
    packed: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        """The method's name."""
        return self.mask.name

    @property
    def target_density(self) -> float:
        """The fraction of entries that train."""
        return self.mask.target_density

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> AttachedMask:
        """Hook the mask onto the optimizer, and return it at work."""
        from gmt.masking.given import set_keep_masks
        from gmt.masking.packing import unpack
        from gmt.masking.parameters import names_of

        attached = self.mask.attach(model, optimizer, seed=seed, facts_every=facts_every)
        sizes = {name: p.numel() for p, name in names_of(model).items()}
        set_keep_masks(attached.mask, {name: unpack(bits, sizes[name]) for name, bits in self.packed.items()})
        return attached


def _unpacked(packed: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """Return the chosen entries of a tensor, bool of shape [N] on its device."""
    from gmt.masking.packing import unpack

    return unpack(packed[name], like.numel()).to(like.device)


def largest(moves: Sequence[Tensor], num_chosen: int) -> list[Tensor]:
    """Return masks of the entries with the largest magnitudes; a zero is never chosen.

    Of entries that tie at the threshold the first are chosen, so that the number is exact unless too few entries differ
    from zero.

    Args:
        moves: tensors of float32 on the CPU, each of shape [N].
        num_chosen: the number of entries to choose, over all tensors together.

    Returns:
        A bool tensor of shape [N] for each.
    """
    import torch

    from gmt.masking.counting import as_bits
    from gmt.masking.rule import CHUNK, Scores
    from gmt.masking.selection import select

    if not num_chosen:
        return [torch.zeros_like(x_N, dtype=torch.bool) for x_N in moves]
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
    num_entries = sum(map(len, moves))
    (selection,) = select([scores], (num_entries - num_chosen + 0.5) / num_entries)  # select takes the floor
    num_ties = num_chosen - sum(int((as_bits(x_N) > selection.lowest).sum()) for x_N in moves)
    chosen = []
    for x_N in moves:
        bits_N = as_bits(x_N)
        tied_N = (bits_N == selection.lowest) & (bits_N > 0)
        first_N = tied_N & (torch.cumsum(tied_N, dim=0) <= num_ties)
        num_ties -= int(first_N.sum())
        chosen.append((bits_N > selection.lowest) | first_N)
    return chosen
