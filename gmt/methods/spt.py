"""SPT, sensitivity-aware fine-tuning (He et al., arXiv 2303.08566, Section 3): chooses where to tune, and how.

An entry's sensitivity is the sum of its squared batch gradients at the base's weights. The most sensitive entries over
all linear layers, norms and biases are chosen. A matrix gets a LoRA if at least rank * (inputs + outputs) /
matrix_factor of its entries are chosen; otherwise the chosen entries alone train. A vector trains as a whole if at
least one in vector_factor of its entries is chosen, and otherwise not at all. As many entries are chosen as the budget
of trained parameters allows. Departures: conf/method/spt.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.errors import UserError
from gmt.methods.adapters import PeftAdapter, Unmasked
from gmt.methods.trained_part import TrainedPart

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from gmt.methods.reshaped import Reshaped
    from gmt.methods.sensitivity import Plan


@dataclass(frozen=True, kw_only=True)
class SensitivityAware:
    """Trains LoRAs, single entries and vectors where the loss on training examples is sensitive to the weights.

    Args:
        name: the name of the method in tables.
        trainable_ratio: the most parameters that train, as a share of those of linear layers, norms and biases, in
            (0, 1].
        rank, alpha: the rank of a LoRA, whose output is scaled by alpha / rank.
        matrix_factor: at least 1; the larger, the more matrices get a LoRA.
        vector_factor: at least 1; the larger, the more vectors train.
        num_examples: the number of training rows whose gradients are measured.
        batch_size: the number of rows in each gradient that is squared.
    """

    name: str
    trainable_ratio: float
    rank: int
    alpha: float
    matrix_factor: float
    vector_factor: float
    num_examples: int
    batch_size: int

    def __post_init__(self) -> None:
        ratio, rule = self.trainable_ratio, "must lie in (0, 1]"
        settings.number("method.trainable_ratio", ratio, rule, low=0, high=1, open_low=True, open_high=False)
        settings.integer("method.rank", self.rank, low=1)
        settings.number("method.alpha", self.alpha, "must be above 0", low=0, open_low=True)
        settings.number("method.matrix_factor", self.matrix_factor, "must be at least 1", low=1)
        settings.number("method.vector_factor", self.vector_factor, "must be at least 1", low=1)
        settings.integer("method.num_examples", self.num_examples, low=1)
        settings.integer("method.batch_size", self.batch_size, low=1)

    @property
    def target_density(self) -> None:
        """None: the method masks nothing at a step."""
        return None

    def reshape(self, model: PreTrainedModel, *, seed: int) -> Reshaped:
        """Freeze the model, and put a LoRA beside each matrix, as a trial on a model without weights.

        Raises:
            UserError: the model has no linear layers, or the rank is above a matrix's smaller side.
        """
        from gmt.methods.computed_weights import chosen_layers
        from gmt.methods.sensitivity import Plan

        return self._put_in(model, Plan(low_rank=list(chosen_layers(model, "all-linear")), entries={}, whole=[]), seed)

    def reshape_by(
        self, model: PreTrainedModel, *, seed: int, batches: Callable[[int], Iterator[Mapping[str, Any]]]
    ) -> Reshaped:
        """Freeze the model, and put in the parts that the sensitivities of its weights decide.

        Raises:
            UserError: as `reshape`; or all gradients are zero, one is not finite, or the budget is too small.
        """
        from gmt.methods.sensitivity import Rule, candidates, plan, sensitivities

        named = candidates(model)
        budget = int(self.trainable_ratio * sum(p.numel() for p in named.values()))
        measured = sensitivities(model, named, batches(self.batch_size))
        rule = Rule(rank=self.rank, matrix_factor=self.matrix_factor, vector_factor=self.vector_factor)
        planned = plan(measured, rule, budget)
        if not (planned.low_rank or planned.entries or planned.whole):
            raise UserError(
                f"method.trainable_ratio must leave room for the most sensitive entries, and {budget} parameters do "
                f"not, got {self.trainable_ratio}"
            )
        return self._put_in(model, planned, seed)

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> Unmasked:
        """Return an attached method that does nothing, since the parts are in the model."""
        return Unmasked()

    def _put_in(self, model: PreTrainedModel, planned: Plan, seed: int) -> SensitiveParts:
        from gmt.methods.computed_weights import ComputedWeights
        from gmt.methods.sensitivity import SparseChange

        vectors = {name: model.get_parameter(name) for name in planned.whole}
        whole = TrainedPart(model, vectors, file_name="vectors.safetensors")
        layers: Any = {name: model.get_submodule(name) for name in planned.entries}
        indices = {id(layer): planned.entries[name] for name, layer in layers.items()}
        sparse = ComputedWeights(model, layers, lambda layer: SparseChange(indices[id(layer)]), "entries.safetensors")
        parts: list[Any] = [sparse] * bool(planned.entries) + [whole] * bool(planned.whole)
        if planned.low_rank:
            lora = PeftAdapter(
                name=self.name, family="lora", rank=self.rank, alpha=self.alpha, targets=planned.low_rank, options={}
            )
            parts.append(lora.reshape(model, seed=seed))
        for p in [*vectors.values(), *(part.values for part in sparse.parts.values())]:  # the other parts froze them
            p.requires_grad_(True)
        return SensitiveParts(parts)


class SensitiveParts:
    """A model with parts of several types: LoRAs, single entries and vectors; some types may be absent."""

    def __init__(self, parts: Sequence[Any]):
        self._parts = parts

    def save(self, folder: Path) -> None:
        """Write the LoRAs in peft's format, and beside them the entries and the vectors."""
        for part in self._parts:
            part.save(folder)

    def restore(self) -> None:
        """Merge the LoRAs and the entries into the model's weights; the vectors are the model's own."""
        for part in self._parts:
            part.restore()
