"""The overlap of the entries that two trainings moved, for two seeds of an arm or for two arms on one seed.

Shape suffix: N entries of a parameter, flattened.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.diagnostics.protocol import Row, Shown

if TYPE_CHECKING:
    from torch import Tensor

    from gmt.diagnostics.changes import Change
    from gmt.diagnostics.finished import FinishedRun


@dataclass(frozen=True, kw_only=True)
class MaskOverlap:
    """Overlap of the entries that two runs moved, by parameter. Rows of a run:

    moved: the fraction of entries that differ from the base.

    Rows of a pair, which is two seeds of one arm, or two arms on the same base, task and seed:

    jaccard: the Jaccard index of the two runs' supports. A support holds the entries with the largest change, at most
    `fraction` of the parameter and all ties at the threshold; entries that did not move are never in it.
    by_chance: the Jaccard index of two random supports of these sizes, p q / (p + q - p q).

    A run record stores no masks, so a support is computed from the change over the whole training, and not from the
    mask of one step.

    Args:
        name: the diagnostic's name in tables.
        fraction: the largest support, as a fraction of a parameter's entries, in (0, 1]; 1 takes all moved entries.
    """

    name: str
    fraction: float

    needs_weights = True
    shown = Shown(
        title="Overlap of what two runs moved",
        panels={"jaccard": "Jaccard index, mean over parameters", "by_chance": "of random supports of the same sizes"},
    )

    def __post_init__(self) -> None:
        settings.number(
            "diagnostic.fraction", self.fraction, "must lie in (0, 1]", low=0, high=1, open_low=True, open_high=False
        )

    def rows(self, run: FinishedRun) -> Iterable[Row]:
        """Count the entries that moved."""
        from gmt.diagnostics.changes import changes

        for change in changes(run):
            moved = float((change.tuned != change.base).double().mean())
            yield Row(layer=change.layer, matrix=change.matrix, name="moved", value=moved)

    def compares(self, one: FinishedRun, other: FinishedRun) -> bool:
        """Whether the runs are two seeds of one arm, or two arms on one seed."""
        return one.is_same_but_seed(other) or one.has_same_data(other)

    def rows_of_pair(self, one: FinishedRun, other: FinishedRun) -> Iterable[Row]:
        """Compare the supports, parameter by parameter; parameters that neither run moved are left out."""
        from gmt.diagnostics.changes import changes_of_both

        for first, second in changes_of_both(one, other):
            for name, value in overlap(self._support(first), self._support(second)).items():
                yield Row(layer=first.layer, matrix=first.matrix, name=name, value=value)

    def _support(self, change: Change) -> Tensor:
        return support(change.delta.flatten(), self.fraction)


def support(delta_N: Tensor, fraction: float) -> Tensor:
    """Return a mask of the `fraction` of all entries that moved most; bool of shape [N].

    All ties at the threshold are in it, and no entry that did not move.
    """
    import torch

    from gmt.masking.entries import keep_mask
    from gmt.masking.rule import CHUNK, Scores
    from gmt.masking.selection import select

    moved_N = delta_N != 0
    if fraction == 1:
        return moved_N
    scores = Scores(
        chunks=lambda: iter(torch.split(delta_N, CHUNK)),
        dtype=delta_N.dtype,
        num_entries=len(delta_N),
        shards=None,
        device=delta_N.device,
    )
    (largest,) = select([[scores]], round(1 - fraction, 12))
    return keep_mask(delta_N, largest) & moved_N


def overlap(one_N: Tensor, other_N: Tensor) -> dict[str, float]:
    """Return the Jaccard index of two supports and of random supports of their sizes; empty if both are empty."""
    either = int((one_N | other_N).sum())
    if not either:
        return {}
    p, q = (float(support_N.double().mean()) for support_N in (one_N, other_N))
    return {"jaccard": int((one_N & other_N).sum()) / either, "by_chance": p * q / (p + q - p * q)}
