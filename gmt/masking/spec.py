"""The settings of a mask, and their checks. Knows nothing of models, optimizers or configs, and imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gmt.masking.signals import DRAW, OUTPUTS, TABLE, MatrixSignal, Signal, row_of

SIGNALS = tuple(TABLE)
SCOPES = ("tensor", "layer", "global")
ENTROPY = "entropy"  # a scope in which each tensor has its own ratio; see budgets.py
MASK_ON = ("gradient", "update")
MOMENTS = ("dense", "masked")  # with any optimizer
PACKED = "packed"  # only with the optimizer of gmt/optimizers/packed_adamw.py
AGES = ("global", "own")  # the ages of packed moments; see gmt/optimizers/packed_adamw.py
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
        mask_ratio: the fraction of the entries that is masked, in [0, 1). 0 is the plain optimizer, bit for bit.
        signal: the score whose magnitude ranks an entry; gmt/masking/signals.py has the full list.
            `gradient`: the gradient that the optimizer sees, accumulated over micro-batches and clipped.
            `accumulated_gradient`: the sum of these gradients since the mask was last chosen, so that with
            `refresh=M` the paper's mean over N mini-batches extends over M steps. Needs one more buffer.
            `random`: a uniform draw at every refresh; the paper's baseline RMT.
            `first_moment`: the optimizer's first moment after this step. It includes this step's gradient, and weight
            decay if the optimizer adds it to the gradient. Refused if the optimizer has no such moment.
            `weight_magnitude`: the weight.
            `weight_times_gradient`: the first-order saliency |w * g|.
            Or a plug-in: `Signal` or `MatrixSignal`.
        scope: the set of entries over which the ratio holds: each `tensor`; each `layer` (the parameters under one
            number in their names; a parameter without a number is a layer of its own); all together (`global`); or all
            together, with a ratio for each tensor that follows from its scores (`entropy`, gmt/masking/budgets.py). The
            paper does not say which.
        refresh: the number of steps after which the mask is chosen again, at least 1, or `once`.
        mask_on: what is masked: the `gradient`, as in the paper, so that the optimizer sees zeros, and momentum and
            weight decay still move masked entries; or the `update`, so that masked entries do not move at all.
        moments: the optimizer's moments of masked entries: with `dense`, it updates them; with `masked`, they do not
            change; with `packed`, there are none. With `packed`, masked entries have gradients only at a step that
            ranks by them, and an entry that the mask no longer keeps loses its moments
            (gmt/optimizers/packed_adamw.py).
        keep: whether the entries with the `largest` or the `smallest` scores are kept. Entries with score zero are
            never kept, except with a signal that ranks zeros, such as `weight_magnitude` (gmt/masking/signals.py).
        exclude: patterns (as in a shell: *, ?, [..]) of the names of parameters that are not ranked.
        excluded: whether the parameters in `exclude` are `dense`, trained as without a mask, or `frozen`, not trained.
        first_micro_batch: with moments=packed, whether a step's first micro-batch gives the gradient that is ranked, so
            that each dense gradient is freed before the next tensor's is computed; needs scope=tensor.
        grain: the units that are kept or masked as a whole: single entries (`entry`), `row`, `column`, `head` or
            `tensor`; see gmt/masking/grains.py. A unit is ranked by the mean magnitude of its entries' scores, or for
            `random` by one number; `mask_ratio` is a fraction of units. All units that tie at the threshold are kept.
        parameters: the parameters that are ranked: `all`; the weights of `linear` layers inside numbered layers, where
            the others, such as embeddings, the output head, norms and biases, train as without a mask; or these weights
            alone (`linear_alone`), where the others do not train, except for those in `exclude` if `excluded=dense`.
        calibration: for a signal that needs activations, the forward passes over which these are summed up: those of
            the `training` since the mask was last chosen, or one pass over `source` data before the first step.

    Raises:
        ValueError: a setting breaks its rule; the message begins with the setting's name.
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
        is_real = isinstance(ratio, int | float) and not isinstance(ratio, bool) and math.isfinite(ratio)
        if not is_real or not 0 <= ratio < 1:
            raise ValueError(f"mask_ratio must lie in [0, 1), got {ratio!r}")
        if not isinstance(self.signal, Signal | MatrixSignal):
            self._one_of("signal", SIGNALS)
        self._one_of("scope", (*SCOPES, ENTROPY))
        is_whole = isinstance(self.refresh, int) and not isinstance(self.refresh, bool) and self.refresh >= 1
        if not is_whole and self.refresh != ONCE:
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
                f"refresh must be once where calibration=source and signal={row.name}, since outputs are summed up "
                f"only once, so that every mask would equal the first, got {self.refresh}"
            )
        if self.excluded == "frozen" and not self.exclude:
            raise ValueError("excluded=frozen needs patterns in exclude: there is nothing to freeze")
        if self.grain == "tensor" and self.scope == "tensor":
            raise ValueError(
                "scope must be layer or global where grain=tensor, since a tensor is ranked among others, got 'tensor'"
            )
        if self.scope == ENTROPY and (self.grain != "entry" or row.whole is not None or DRAW in row.needs):
            raise ValueError(
                f"scope=entropy needs grain=entry and a signal that computes the score of each entry by itself, got "
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
                "refresh must be above 1 or once where moments=packed, since moments would be lost at each step, got 1"
            )
        row = row_of(self.signal)
        if row.needs_activations:
            raise ValueError(
                f"moments must be dense or masked where signal={row.name}, since a support is chosen as gradients "
                "arrive, when the step's activations are not summed up yet, got 'packed'"
            )
        if row.needs_every_step:
            raise ValueError(
                f"signal must not be {row.name} where moments=packed, since it needs a sum over steps for every entry"
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
        """Whether a mask may be used at more than one step."""
        return self.refresh != 1

    @property
    def needs_whole_parameters(self) -> bool:
        """Whether a parameter can be ranked only as a whole, so that it must not be sharded."""
        return self.grain != "entry" or row_of(self.signal).whole is not None
