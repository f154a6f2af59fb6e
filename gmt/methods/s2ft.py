"""S2FT (Yang et al., arXiv 2412.06289): trains whole channels and heads, coupled over all matrices they pass through.

Channels of all layers are ranked together, and so are heads. Departures: the authors permute the matrices so that the
chosen rows and columns come first, and train these blocks alone; here they train in place under a fixed mask, which
needs no order of query heads and no permutation back. Under grouped-query attention a head of k and v is chosen
together with all its query heads, unless neither k nor v trains. The number of chosen units is rounded up, so that at
least one is chosen; the authors round down. Biases do not train.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.errors import UserError
from gmt.methods.gradient_mask import AttachedMask, GradientMask, faults_of_averaging
from gmt.methods.structures import CHANNELS, HEADS

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from gmt.methods.channels import Part
    from gmt.methods.probing import Batches
    from gmt.methods.protocol import OptimizerFacts

SCORES = ("random", "weight", "gradient", "activation")
_BY_EXAMPLES = ("gradient", "activation")
_FAR = 1.5  # a warning is logged if the share of units that train is so many times the share that was set

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StructuredSparse:
    """Trains some channels of the feed-forward parts and some heads of the attention parts.

    Args:
        name: the name of the method in tables.
        mask_ratio: fraction of the channels, and of the heads, that do not train, in [0, 1).
        matrices: the matrices in which rows or columns train: some of up, gate, down, q, k, v and o.
        score: the score of a channel or head: `random`: drawn by the seed; `weight`: the mean magnitude of its entries;
            `gradient`: the mean magnitude of their gradients; `activation`: the mean magnitude of its inputs to the
            down or o matrix.
        keep: whether the units with the `largest` or the `smallest` scores train; `largest` for `random`.
        num_examples: the number of training rows on which gradients or activations are measured; 0 for other scores.
    """

    name: str
    mask_ratio: float
    matrices: Sequence[str]
    score: str
    keep: str
    num_examples: int

    parameters = "linear_alone"  # of gmt.masking.MaskSpec

    def __post_init__(self) -> None:
        known = (*CHANNELS, *HEADS)
        is_list = isinstance(self.matrices, Sequence) and not isinstance(self.matrices, str)
        if not is_list or not self.matrices or not {*self.matrices} <= {*known}:
            raise UserError(f"method.matrices must be a list of some of {', '.join(known)}, got {self.matrices!r}")
        settings.one_of("method.score", self.score, SCORES)
        settings.one_of("method.keep", self.keep, ("largest", "smallest"))
        if self.score == "random" and self.keep != "largest":
            raise UserError(
                f"method.keep must be largest for method.score=random, where both ends are draws, got {self.keep}"
            )
        reads = self.score in _BY_EXAMPLES
        if settings.integer("method.num_examples", self.num_examples, low=int(reads)) and not reads:
            raise UserError(
                f"method.num_examples must be 0 for method.score={self.score}, which reads none, got "
                f"{self.num_examples}"
            )
        self._mask([])

    @property
    def target_density(self) -> float:
        """The fraction of channels and heads that train."""
        return 1 - self.mask_ratio

    def faults_with(self, optimizer: OptimizerFacts) -> list[str]:
        """Return a sentence if the optimizer would move masked entries."""
        return faults_of_averaging(self.name, optimizer)

    def faults_when_sharded(self) -> list[str]:
        """Return a clause that refuses sharding, since channels are rows and columns of whole matrices."""
        return [f"method {self.name}, which chooses rows and columns of whole matrices"]

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Channels:
        """Choose channels and heads without examples.

        Raises:
            UserError: the model has no such channels or heads, or the score needs examples.
        """
        if self.num_examples:
            raise UserError(f"method={self.name}: score={self.score} needs examples: call attach_with_examples")
        return self._attach(model, optimizer, None, seed=seed, facts_every=facts_every)

    def attach_with_examples(
        self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int, batches: Batches
    ) -> Channels:
        """Choose channels and heads by examples.

        Raises:
            UserError: the model has no such channels or heads.
        """
        return self._attach(model, optimizer, batches, seed=seed, facts_every=facts_every)

    def _attach(
        self, model: nn.Module, optimizer: Optimizer, batches: Batches | None, *, seed: int, facts_every: int
    ) -> Channels:
        from gmt.masking.given import set_keep_masks
        from gmt.masking.parameters import names_of
        from gmt.methods.channels import coupled_parts

        names: dict[Any, str] = dict(names_of(model))
        parts_by_type = coupled_parts(model, self.matrices, method=self.name)
        keep_masks: dict[str, Tensor] = {}
        choices: dict[str, list[Tensor]] = {}
        for units, parts in zip(("channels", "heads"), parts_by_type, strict=True):
            scores = self._scores(model, parts, batches, f"{seed}/{units}") if parts else []
            choices[units] = choice = self._chosen(scores)
            for part, chosen in zip(parts, choice, strict=True):
                keep_masks |= {names[weight]: keep_N for weight, keep_N in part.keep_masks(chosen)}
        others = [name for p, name in names.items() if name not in keep_masks and p.requires_grad]
        mask = self._mask(others).attach(model, optimizer, seed=seed, facts_every=facts_every)
        set_keep_masks(mask.mask, keep_masks)
        for units, choice in choices.items():
            self._warn_of_share(units, choice)  # last, so that a trial without weights does not warn
        return Channels(mask.mask, self.name, {name: p for p, name in names.items() if p.requires_grad}, keep_masks)

    def _scores(self, model: nn.Module, parts: Sequence[Part], batches: Batches | None, draw: str) -> list[Tensor]:
        """Return the scores of each part's units, float32 on the CPU; units with larger scores train."""
        import random

        import torch

        from gmt.methods.probing import gradients, input_magnitudes

        match self.score:
            case "random":
                generator = random.Random(draw)
                return [torch.tensor([generator.random() for _ in range(part.num_units)]) for part in parts]
            case "weight":
                scores = [part.means(lambda weight: weight) for part in parts]
            case "gradient":
                assert batches is not None
                weights = [module.weight for part in parts for module in part.modules.values()]
                by_weight = dict(zip(weights, gradients(model, weights, batches), strict=True))
                scores = [part.means(lambda weight: by_weight[weight]) for part in parts]
            case _:
                assert batches is not None
                magnitudes = input_magnitudes(model, [part.last for part in parts], batches)
                scores = [part.input_means(features) for part, features in zip(parts, magnitudes, strict=True)]
        return [-score if self.keep == "smallest" else score for score in scores]

    def _chosen(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Return which units train, ranked over all parts together, as bool [num_units]; the first of ties train."""
        import torch

        from gmt.masking.rule import num_masked

        if not scores:
            return []
        sizes = [len(score) for score in scores]
        order = torch.cat(list(scores)).argsort(descending=True, stable=True)
        chosen = torch.zeros(sum(sizes), dtype=torch.bool)
        chosen[order[: sum(sizes) - num_masked(self.mask_ratio, sum(sizes))]] = True
        return list(torch.split(chosen, sizes))

    def _warn_of_share(self, units: str, choice: Sequence[Tensor]) -> None:
        """Log a warning if the chosen units are far more than the share that the mask ratio sets."""
        num, total = sum(int(chosen.sum()) for chosen in choice), sum(map(len, choice))
        if num > _FAR * self.target_density * total:
            _log.warning(
                "method=%s: %d of %d %s train, %.2g %%, where method.mask_ratio=%s asks for %.2g %%: only whole %s can "
                "train, and at least one does",
                *(self.name, num, total, units, 100 * num / total, self.mask_ratio, 100 * self.target_density, units),
            )

    def _mask(self, frozen: Sequence[str]) -> GradientMask:
        return GradientMask(
            name=self.name,
            mask_ratio=self.mask_ratio,
            signal="gradient",  # has no effect: the entries are set
            scope="global",
            refresh="once",
            mask_on="update",
            moments="dense",
            keep=self.keep,
            exclude=frozen,
            excluded="frozen" if frozen else "dense",
        )


class Channels(AttachedMask):
    """Chosen channels and heads at work; a parameter without any of them gets no gradient and no moments."""

    def __init__(
        self, mask: Any, name: str, trained: Mapping[str, nn.Parameter], keep_masks: Mapping[str, Tensor]
    ) -> None:
        super().__init__(mask, name)
        self._trained = trained  # the parameters that would train without the method
        self._freeze(keep_masks)

    def _freeze(self, keep_masks: Mapping[str, Tensor]) -> None:
        """Let only parameters with a kept entry train; the masks cover all matrices, bool of shape [N]."""
        self._num_kept = sum(int(keep_N.sum()) for keep_N in keep_masks.values())
        self._num_entries = sum(map(len, keep_masks.values()))
        for name, p in self._trained.items():
            p.requires_grad_(name in keep_masks and bool(keep_masks[name].any()))

    def facts(self) -> dict[str, float]:
        """Return the mask's facts; the density is over all matrices, including those without a chosen unit."""
        facts = super().facts()
        return facts | {"density": self._num_kept / self._num_entries} if facts else facts

    def num_trained(self) -> int:
        """Return the number of entries of the chosen units."""
        return self._num_kept

    def num_touched(self) -> int:
        """Return the same number, since the choice never changes."""
        return self._num_kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the units in a checkpoint, even if its weights would rank other units first."""
        from gmt.masking.packing import unpack

        super().load_state_dict(state)
        self._freeze({name: unpack(bits, self._trained[name].numel()) for name, bits in state["masks"].items()})

    def detach(self) -> None:
        """Remove the mask from the optimizer, and let every parameter train again."""
        super().detach()
        for p in self._trained.values():
            p.requires_grad_(True)
