"""The settings of a mask, checked. Knows nothing of models, optimizers or configs, and imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gmt.masking.signals import DRAW, OUTPUTS, TABLE, MatrixSignal, Signal, row_of

SIGNALS = tuple(TABLE)
SCOPES = ("tensor", "layer", "global")
ENTROPY = "entropy"  # a scope whose tensors have parts of their own; see budgets.py
MASK_ON = ("gradient", "update")
MOMENTS = ("dense", "masked")  # by any optimizer
PACKED = "packed"  # by gmt.optimizers.packed_adamw alone
AGES = ("global", "own")  # of packed moments; see there
KEEP = ("largest", "smallest")
EXCLUDED = ("dense", "frozen")
GRAINS = ("entry", "row", "column", "head", "tensor")
PARAMETERS = ("all", "linear", "linear_alone")
CALIBRATION = ("training", "source")
ONCE = "once"


@dataclass(frozen=True, kw_only=True)
class MaskSpec:
    """The settings of a mask; the defaults are the paper's GMT (Li et al., arXiv 2406.15330, Section 3).

    Args:
        mask_ratio: fraction of the entries that is masked, in [0, 1). 0 is the plain optimizer, bit for bit.
        signal: the score that ranks entries, by its magnitude.
            `gradient`: the gradient that the optimizer sees, accumulated over micro-batches and clipped.
            `accumulated_gradient`: the sum of these gradients since the mask was last made, so that with
            `refresh=M` the paper's mean over N mini-batches reaches over M steps. Keeps one more buffer.
            `random`: a uniform draw at every refresh; the paper's baseline RMT.
            `first_moment`: the optimizer's first moment as it is after this step, with this step's gradient in it and,
            where the optimizer adds weight decay to the gradient, that too. Refused where there is no such moment.
            `weight_magnitude`: the weight.
            `weight_times_gradient`: the first-order saliency |w * g|.
            Or a plug-in: `Signal` or `MatrixSignal`.
        scope: the set of entries in which the ratio is masked: each `tensor`, each `layer` (the parameters under one
            number in their names; others by themselves), or all together (`global`). The paper does not say which.
            `entropy`: all together, where a tensor's share follows from its scores (gmt/masking/budgets.py).
        refresh: the number of steps after which the mask is chosen again, at least 1, or `once`.
        mask_on: `gradient`, as in the paper: the optimizer sees zeros, and momentum and weight decay still move
            masked entries. `update`: masked entries do not move at all.
        moments: `dense`: the optimizer updates the moments of every entry. `masked`: the moments of masked entries
            stay unchanged. `packed`: masked entries have no moments, and gradients only at a step that ranks by them;
            see gmt/optimizers/packed_adamw.py. An entry that the mask no longer keeps loses its moments.
        keep: whether entries with the `largest` or the `smallest` scores (other than zero) stay.
        exclude: patterns (as in a shell: *, ?, [..]) of names of parameters that are not ranked.
        excluded: what happens to the parameters in `exclude`: `dense`, trained as without a mask, or `frozen`, not
            trained.
        first_micro_batch: with moments=packed, whether the gradient that ranks is that of a step's first micro-batch,
            so that no gradient is dense for longer than its tensor; needs scope=tensor.
        grain: the units that are kept or masked as a whole: single entries (`entry`), `row`, `column`, `head` or
            `tensor`; see gmt/masking/grains.py. The mean magnitude of its entries' scores ranks a unit, `random` draws
            one number for each unit, and `mask_ratio` is a fraction of units. Units that tie at the threshold all stay.
        parameters: which are ranked: `all`, or the weights of `linear` layers inside numbered layers, so that the
            others, such as embeddings, the output head, norms and biases, train as without a mask. With
            `linear_alone` the others are not trained, but for those in `exclude` where `excluded=dense`.
        calibration: the passes over which activations are summed up for a signal that needs them: the `training`'s own
            since the mask was last made, or one over `source` data, before the first step.

    Raises:
        ValueError: a setting breaks its rule; the sentence begins with the setting's name.
    """

    mask_ratio: float
    signal: str | Signal | MatrixSignal = "gradient"
    scope: str = "tensor"
    refresh: int | str = 1
    mask_on: str = "gradient"
    moments: str = "dense"
    keep: str = "largest"
    exclude: tuple[str, ...] = ()
    excluded: str = "dense"
    first_micro_batch: bool = False
    grain: str = "entry"
    parameters: str = "all"
    calibration: str = "training"

    def __post_init__(self) -> None:
        ratio = self.mask_ratio
        real = isinstance(ratio, int | float) and not isinstance(ratio, bool) and math.isfinite(ratio)
        if not real or not 0 <= ratio < 1:
            raise ValueError(f"mask_ratio must lie in [0, 1), got {ratio!r}")
        if not isinstance(self.signal, Signal | MatrixSignal):
            self._one_of("signal", SIGNALS)
        self._one_of("scope", (*SCOPES, ENTROPY))
        whole = isinstance(self.refresh, int) and not isinstance(self.refresh, bool) and self.refresh >= 1
        if not whole and self.refresh != ONCE:
            raise ValueError(f"refresh must be a whole number of steps from 1 on, or once, got {self.refresh!r}")
        self._one_of("mask_on", MASK_ON)
        self._one_of("moments", (*MOMENTS, PACKED))
        self._one_of("keep", KEEP)
        self._one_of("excluded", EXCLUDED)
        if isinstance(self.exclude, str) or not all(isinstance(p, str) and p for p in self.exclude):
            raise ValueError(f"exclude must be a list of name patterns, got {self.exclude!r}")
        object.__setattr__(self, "exclude", tuple(self.exclude))
        self._one_of("grain", GRAINS)
        self._one_of("parameters", PARAMETERS)
        self._one_of("calibration", CALIBRATION)
        row = row_of(self.signal)
        if self.grain in row.blind_grains:
            raise ValueError(
                f"grain must not be {self.grain} where signal={row.name}, which scores all {self.grain}s of a matrix "
                "alike"
            )
        if self.calibration == "source" and not row.needs_activations:
            raise ValueError(f"calibration must be training where signal={row.name}, which needs no data, got 'source'")
        if self.calibration == "source" and OUTPUTS in row.needs and self.refresh != ONCE:
            raise ValueError(
                f"refresh must be once where calibration=source and signal={row.name}, since outputs are read once and "
                f"every mask would be the first, got {self.refresh}"
            )
        if self.excluded == "frozen" and not self.exclude:
            raise ValueError("excluded=frozen needs patterns in exclude: there is nothing to freeze")
        if self.grain == "tensor" and self.scope == "tensor":
            raise ValueError("scope must be layer or global where grain=tensor, or no tensor is ranked, got 'tensor'")
        if self.scope == ENTROPY and (self.grain != "entry" or row.whole is not None or DRAW in row.needs):
            raise ValueError(
                f"scope=entropy needs grain=entry and a signal that scores single entries by numbers, got "
                f"grain={self.grain} and signal={row.name}"
            )
        self._check_packed()

    def _check_packed(self) -> None:
        if not isinstance(self.first_micro_batch, bool):
            raise ValueError(f"first_micro_batch must be true or false, got {self.first_micro_batch!r}")
        if self.moments != PACKED:
            if self.first_micro_batch:
                raise ValueError(f"first_micro_batch must be false where moments={self.moments}, got True")
            return
        if self.mask_on != "update":
            raise ValueError(f"mask_on must be update where moments=packed, got {self.mask_on!r}")
        if self.refresh == 1:
            raise ValueError(
                "refresh must be above 1 or once where moments=packed, or no moments last longer than a step, got 1"
            )
        row = row_of(self.signal)
        if row.needs_activations:
            raise ValueError(
                f"moments must be dense or masked where signal={row.name}, since a support is chosen as gradients "
                "arrive, when the step's activations are not summed up yet, got 'packed'"
            )
        if row.needs_every_step:
            raise ValueError(
                f"signal must not be {row.name} where moments=packed, since it adds up over all entries' steps"
            )
        if self.first_micro_batch and (self.scope != "tensor" or not row.reads_gradient):
            raise ValueError(
                "first_micro_batch needs scope=tensor and a signal that reads the gradient, "
                f"got scope={self.scope} and signal={row.name}"
            )

    def _one_of(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")

    def is_refreshed_at(self, step: int) -> bool:
        """Return whether the mask is chosen again at a step, counted from 0."""
        return step == 0 if isinstance(self.refresh, str) else step % self.refresh == 0

    @property
    def outlives_a_step(self) -> bool:
        """Whether a mask is used for more steps than the one that makes it."""
        return self.refresh != 1

    @property
    def needs_whole_parameters(self) -> bool:
        """Whether a parameter can't be ranked stretch by stretch, so that none may be sharded."""
        return self.grain != "entry" or row_of(self.signal).whole is not None
