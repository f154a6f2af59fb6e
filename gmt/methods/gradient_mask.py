"""Masking as a method: gmt, rmt and others are settings of one class, which wraps gmt.masking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from gmt import settings
from gmt.errors import UserError
from gmt.masking import MaskSpec, MatrixSignal, Signal
from gmt.masking.signals import FIRST_MOMENT, ChecksShapes, row_of
from gmt.masking.spec import AGES, ONCE, PACKED

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from gmt.masking import Mask
    from gmt.methods.protocol import OptimizerFacts, ParameterGroup
    from gmt.methods.source_prompts import Prompts


# The facts that are logged for each layer: only those that differ between layers, since a model has many layers.
_OF_LAYERS = ("kept_fraction", "energy_kept", "moved_fraction", "overlap")
_NOT_BY_ENTRY = {
    "factored": "keeps its moments by rows and columns",
    "packed": "keeps its moments in 8 bits",
    "none": "keeps no moments",
}


@dataclass(frozen=True, kw_only=True)
class GradientMask:
    """Masks the gradient or the update at every optimizer step (arXiv 2406.15330, Section 3).

    Args:
        name: the name of these settings in tables, e.g. `gmt` or `rmt`.
        mask_ratio, signal, scope, refresh, mask_on, moments, keep, exclude, excluded, grain, parameters, calibration,
            first_micro_batch: see gmt.masking.MaskSpec.
        age: with moments=packed, the step count that corrects the bias of an entry's moments if the entry joins the
            support later: that of its parameter (`global`), or its `own`.

    Raises:
        UserError: a setting breaks its rule.
    """

    name: str
    mask_ratio: float
    signal: str | Signal | MatrixSignal
    scope: str
    refresh: int | str
    mask_on: str
    moments: str
    keep: str
    exclude: Sequence[str]
    excluded: str
    first_micro_batch: bool = settings.neutral(False)
    age: str = settings.neutral("global")
    grain: str = settings.neutral("entry")
    parameters: str = settings.neutral("all")
    calibration: str = settings.neutral("training")

    def __post_init__(self) -> None:
        self.spec()
        settings.one_of("method.age", self.age, AGES)
        if self.age != "global" and self.moments != PACKED:
            raise UserError(f"method.age must be global where method.moments={self.moments}, got {self.age!r}")
        if self.age != "global" and self.refresh == ONCE:
            raise UserError(
                f"method.age must be global where method.refresh=once: no entry joins later, got {self.age!r}"
            )

    def spec(self) -> MaskSpec:
        """Return the mask's settings."""
        try:
            return MaskSpec(**{field.name: getattr(self, field.name) for field in fields(MaskSpec)})
        except ValueError as error:
            raise UserError(f"method.{error}") from error

    @property
    def target_density(self) -> float:
        """The fraction of entries that a step updates: 1 - mask_ratio."""
        return 1 - self.mask_ratio

    @property
    def fits_every_model(self) -> bool:
        """Whether no setting needs parameters of a certain name, type or shape."""
        row = row_of(self.signal)
        needs_shapes = isinstance(self.signal, ChecksShapes) or row.needs_activations or self.grain != "entry"
        return not (self.exclude or self.parameters != "all" or needs_shapes)

    @property
    def makes_optimizer(self) -> bool:
        """Whether the method makes an optimizer, with state for kept entries alone."""
        return self.moments == PACKED

    def make_optimizer(self, model: PreTrainedModel, groups: list[ParameterGroup]) -> Optimizer:
        """Return AdamW with moments and gradients for kept entries alone."""
        from gmt.optimizers.packed_adamw import PackedAdamW

        return PackedAdamW(groups, age=self.age)

    def faults_with_workers(self, num_workers: int) -> list[str]:
        """Return a sentence if the kept entries are gathered before several workers can average gradients."""
        return [fault_of_gathering("where method.moments=packed", num_workers)] if self.moments == PACKED else []

    def faults_with(self, optimizer: OptimizerFacts) -> list[str]:
        """Return a sentence for each setting that does not work with the optimizer: mask_on, moments or signal."""
        if not self.mask_ratio:
            return []
        faults = []
        where = f"train.optimizer={optimizer.name}"
        if FIRST_MOMENT in row_of(self.signal).needs and not optimizer.has_first_moment:
            faults.append(
                f"method.signal must not be {self.signal} where {where}, which keeps no running sum of its gradients"
            )
        if optimizer.averages_weights:
            faults += [
                f"method.{name} must be {fitting} where {where}, which averages the weights apart from the mask, "
                f"got {value}"
                for name, value, fitting in (("mask_on", self.mask_on, "gradient"), ("moments", self.moments, "dense"))
                if value != fitting
            ]
        elif self.moments == "masked" and optimizer.moments in _NOT_BY_ENTRY:
            faults.append(
                f"method.moments must be dense where {where}, which {_NOT_BY_ENTRY[optimizer.moments]}, got masked"
            )
        return faults

    def faults_when_sharded(self) -> list[str]:
        """Return a clause if the mask ranks whole parameters."""
        if not self.mask_ratio or not self.spec().needs_whole_parameters:
            return []
        which = f"method.grain={self.grain}" if self.grain != "entry" else f"method.signal={row_of(self.signal).name}"
        return [f"{which}, which ranks whole parameters"]

    @property
    def reads_micro_batches(self) -> bool:
        """Whether the gradient of a micro-batch chooses the mask."""
        return self.first_micro_batch and self.mask_ratio > 0

    @property
    def reads_source(self) -> bool:
        """Whether the mask is computed from source data."""
        return self.calibration == "source" and self.mask_ratio > 0

    def attach(self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int) -> AttachedMask:
        """Hook the mask onto the optimizer, and return it at work.

        Raises:
            UserError: the mask can't work with this model or optimizer.
        """
        return self.attach_with_source(model, optimizer, seed=seed, facts_every=facts_every, source=lambda: iter(()))

    def attach_with_source(
        self, model: nn.Module, optimizer: Optimizer, *, seed: int, facts_every: int, source: Prompts
    ) -> AttachedMask:
        """Hook a mask that is computed from source data onto the optimizer, and return it at work.

        Raises:
            UserError: the mask can't work with this model or optimizer.
        """
        from gmt.masking import attach

        spec = self.spec()
        prompts = source if spec.calibration == "source" else None
        try:
            mask = attach(model, optimizer, spec, seed=seed, facts_every=facts_every, source=prompts)
        except ValueError as error:
            raise UserError(f"method={self.name}: {error}") from error
        return AttachedMask(mask, self.name)


class AttachedMask:
    """A mask at work."""

    def __init__(self, mask: Mask, name: str):
        self.mask = mask
        self._name = name

    def begin_epoch(self, epoch: int) -> None:
        """Do nothing: the mask counts steps."""

    def facts(self) -> dict[str, float]:
        """Return the mask's facts by metric name; facts of layers are named `layers/<layer>/<fact>`."""
        facts = self.mask.facts()
        if facts is None:
            return {}
        metrics = {"density": facts.density, "mask_seconds": facts.seconds}
        if facts.measured is None:
            return metrics
        of_model = vars(facts.measured.model)
        metrics |= _metrics(of_model, [key for key in of_model if key != "num_sampled"])
        for layer, measured in facts.measured.layers.items():
            metrics |= _metrics(vars(measured), _OF_LAYERS, prefix=f"layers/{layer}/")
        return metrics

    def num_trained(self) -> int:
        """Return the number of entries that the mask kept at the last step, plus excluded entries that train."""
        return self.mask.num_trained()

    def num_touched(self) -> int | None:
        """Return the number of entries that were ever kept; for masks that change, an estimate from a sample."""
        return self.mask.num_touched()

    def state_dict(self) -> dict[str, Any]:
        """Return the mask's state."""
        return self.mask.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the mask from a checkpoint's state.

        Raises:
            UserError: the state is of another model or of an earlier version.
        """
        try:
            self.mask.load_state_dict(state)
        except ValueError as error:
            raise UserError(f"method={self._name}: {error}") from error

    def detach(self) -> None:
        """Remove the mask from the optimizer."""
        self.mask.detach()


def _metrics(facts: dict[str, Any], chosen: Sequence[str], prefix: str = "") -> dict[str, float]:
    return {prefix + key: float(facts[key]) for key in chosen if facts[key] is not None}


def fault_of_gathering(where: str, num_workers: int) -> str:
    """Return the sentence that refuses several workers for a method that gathers the kept entries of each gradient."""
    return (
        f"resources.workers must be 1 {where}, which gathers gradients before workers average them, got {num_workers}"
    )


def faults_of_averaging(method: str, optimizer: OptimizerFacts) -> list[str]:
    """Return a sentence if an optimizer would move the masked entries of a method that masks the update."""
    if not optimizer.averages_weights:
        return []
    return [
        f"train.optimizer must not be {optimizer.name} for method {method}, since it averages the weights apart from "
        "the mask, which moves masked entries"
    ]
