"""Compares the outputs of modules of the trained model and of the base: whether training rotated, scaled or distorted
them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.diagnostics.prompts import PARTS, spread
from gmt.diagnostics.protocol import Row, Shown
from gmt.errors import UserError

if TYPE_CHECKING:
    from gmt.diagnostics.finished import FinishedRun


@dataclass(frozen=True, kw_only=True)
class ActivationGeometry:
    """Orthogonal Procrustes residual, Gram distortion and linear CKA of the outputs of linear modules. The prompts run
    through each model from the start, so a module's outputs also change because its inputs do.

    Rows for source and for target prompts, here `PART`; gmt.diagnostics.similarity has the formulas:
    procrustes_residual_PART: the distance of the trained model's outputs from the base's after the best rotation (or
    reflection), divided by the norm of the base's. 0 if training only rotated the outputs, |c - 1| if it only rotated
    them and scaled them by c.
    gram_distortion_PART: the change of the cosines between tokens. 0 if training only rotated or scaled the outputs.
    linear_cka_PART: a similarity in [0, 1]. 1 if training only rotated or scaled the outputs. Independent outputs have
    about D / (N + D), for D features of equal variance and N tokens, and not 0.
    cka_distance_PART: 1 - linear_cka_PART; the figure shows it, since values near 1 are hard to tell apart.
    num_tokens_PART: N, for the whole model.

    The measures are those of PEFT-Arena (arXiv 2605.28819; tools/diagnostic_utils.py of its repository). Departures:
    all linear modules instead of eight; all tokens instead of at most 4,096, and of 1,024 for the cosines; prompts of
    one length share a forward pass, without padding; outputs are float32 and sums float64. A module that does not see
    each token of a batch exactly once, such as an expert, has no rows, since its outputs in the two models can't be
    paired. Values below 1e-5 may be rounding.

    Memory: both models, and `memory_bytes` for sums and outputs. A module needs 48 D^2 bytes and the outputs of a
    batch. D is the number of outputs, or of inputs (with a bias one more) if that is smaller: such outputs lie in a
    space of D dimensions, and their coordinates there have the same inner products. So nothing is sampled, and the
    head of a large vocabulary needs as little as the others. Modules that need more than `memory_bytes` together are
    measured in groups, each with its own forward passes of both models. A module that needs more by itself is measured
    all the same.

    Args:
        name: the diagnostic's name in tables.
        modules: patterns (as in a shell: *, ?, [..]) of names of modules, e.g. `model.layers.*.mlp.down_proj`.
        num_prompts: the number of prompts of each part, evenly spread over all of them.
        batch_size: the most prompts in a forward pass, which have one length.
        memory_bytes: memory for sums and outputs on the run's device.
    """

    name: str
    modules: Sequence[str]
    num_prompts: int
    batch_size: int
    memory_bytes: int

    needs_weights = True
    shown = Shown(
        title="Geometry of module outputs",
        panels={
            f"{name}_{part}": f"{label}, {part} prompts"
            for name, label in (
                ("procrustes_residual", "residual after the best rotation"),
                ("gram_distortion", "change of cosines between tokens"),
                ("cka_distance", "1 - linear CKA with the base"),
            )
            for part in PARTS
        },
    )

    def __post_init__(self) -> None:
        if isinstance(self.modules, str) or not self.modules:
            raise UserError(f"diagnostic.modules must be a list of name patterns, got {self.modules!r}")
        for pattern in self.modules:
            settings.text("each of diagnostic.modules", pattern)
        for name in ("num_prompts", "batch_size", "memory_bytes"):
            settings.integer(f"diagnostic.{name}", getattr(self, name), low=1)

    def rows(self, run: FinishedRun) -> Iterable[Row]:
        """Measure with both models in memory.

        Raises:
            UserError: the model has no linear module, or none with a name like one of `modules`.
        """
        from gmt.diagnostics.changes import place_of
        from gmt.diagnostics.paired_outputs import compared

        names = self._names(run)
        base, tuned = run.base_model(), run.tuned_model()
        for part in PARTS:
            prompts = spread(run.prompts(part), self.num_prompts)
            if not prompts:
                continue
            yield Row(name=f"num_tokens_{part}", value=sum(map(len, prompts)))
            pairs = compared(
                base,
                tuned,
                names,
                prompts,
                batch_size=self.batch_size,
                memory_bytes=self.memory_bytes,
                on_progress=run.on_progress,
            )
            for module, values in pairs:
                layer, matrix = place_of(f"{module}.weight")
                for name, value in values.items():
                    yield Row(layer=layer, matrix=matrix, name=f"{name}_{part}", value=value)

    def _names(self, run: FinishedRun) -> list[str]:
        from gmt.diagnostics.linear_modules import linear_modules

        base = run.model.base()
        names = list(linear_modules(base, run.base()))
        if not names:
            raise UserError(f"{self.name} needs a model with linear modules, and {type(base).__name__} has none")
        for pattern in self.modules:
            if not fnmatch.filter(names, pattern):
                raise UserError(
                    f"each of diagnostic.modules must match the name of a linear module, such as {names[-1]}, "
                    f"got {pattern!r}"
                )
        return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.modules)]
