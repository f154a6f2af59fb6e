"""Which entries stay: the ranking of a step's parameters, by entries or by larger units."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gmt.masking.budgets import ratios
from gmt.masking.entries import keep_mask, keep_masks
from gmt.masking.grains import Units
from gmt.masking.parameters import Ranked, layer_of
from gmt.masking.rule import Scores, Selection
from gmt.masking.selection import select
from gmt.masking.signals import DRAW, Row
from gmt.masking.spec import ENTROPY, MaskSpec


class NonFiniteScoreError(FloatingPointError):
    """A score is NaN or Inf, so that it can't be ranked; `members` share a threshold with it."""

    def __init__(self, members: Sequence[Ranked]):
        super().__init__(f"a score of {members[0].name} or of a parameter ranked with it is NaN or Inf")
        self.members = members


def groups_of(every: Sequence[Ranked], scope: str) -> list[list[Ranked]]:
    """Return the parameters that share a threshold, group by group."""
    groups: dict[str, list[Ranked]] = {}
    for r in every:
        shared = layer_of(r.name) if scope == "layer" else "" if scope == "global" else r.name
        groups.setdefault(shared, []).append(r)
    return list(groups.values())


def choose_entries(
    groups: Sequence[Sequence[Ranked]], spec: MaskSpec, row: Row, *, may_zero: bool = False
) -> list[Selection]:
    """Return the selection of each group, from scores that are computed anew wherever they are needed.

    Args:
        groups: parameters that share a threshold.
        spec, row: the mask's settings and its signal.
        may_zero: whether gradients may be masked here already, where that is all that a mask of this step does.

    Raises:
        NonFiniteScoreError: a score is NaN or Inf; no gradient is masked then.
    """
    masks_gradients = spec.mask_on == "gradient" and spec.moments == "dense" and not spec.outlives_a_step
    zero = [[r.gradient_N for r in members] for members in groups]
    is_quick = may_zero and masks_gradients and row.name == "gradient"
    return _selected(
        [[r.scores(row) for r in members] for members in groups], groups, spec, row, zero if is_quick else None
    )


def choose_units(
    groups: Sequence[Sequence[Ranked]], spec: MaskSpec, row: Row, units: Mapping[nn.Parameter, Units]
) -> dict[str, Tensor]:
    """Return the entries that stay by parameter, bool of shape [N]; groups are scored one after the other.

    Args:
        groups: parameters that share a threshold.
        spec, row: the mask's settings and its signal.
        units: of each parameter; empty where single entries are ranked.

    Raises:
        NonFiniteScoreError: a score is NaN or Inf.
    """
    masks = {}
    for members in groups:
        for r in members:
            r.whole_N = row.whole(r) if row.whole is not None else None
        scores = [units[r.parameter].scores(r, row) if units else r.scores(row) for r in members]
        (selection,) = _selected([scores], [members], spec, row)
        for r, scores_U in zip(members, scores, strict=True):
            if units:
                keep_U = torch.cat([keep_mask(chunk, selection) for chunk in scores_U.chunks()])
                masks[r.name] = units[r.parameter].expanded(keep_U)
            else:
                masks |= keep_masks([r], row, {r.name: selection})
            r.whole_N = None
    return masks


def _selected(
    scores: Sequence[Sequence[Scores]],
    groups: Sequence[Sequence[Ranked]],
    spec: MaskSpec,
    row: Row,
    zero: Sequence[Sequence[Tensor]] | None = None,
) -> list[Selection]:
    options: Any = {"keep": spec.keep, "rank_zeros": row.ranks_zeros}
    if spec.scope == ENTROPY:
        tensors = [tensor for (tensor,) in scores]
        parts = ratios(tensors, spec.mask_ratio)
        selections = [
            selection
            for part, ratio in zip(scores, parts, strict=True)
            for selection in select([part], ratio, **options)
        ]
    else:
        selections = select(scores, spec.mask_ratio, zero=zero, **options)
    for members, selection in zip(groups, selections, strict=True):
        if DRAW not in row.needs and not selection.is_finite:
            raise NonFiniteScoreError(members)
    return selections


def density(every: Sequence[Ranked], masks: Mapping[str, Tensor]) -> float:
    """Return the share of entries that masks keep, over all shards."""
    num_kept = 0
    for shards in dict.fromkeys(r.shards for r in every):
        counts = torch.stack([masks[r.name].sum() for r in every if r.shards == shards]).sum()
        if shards is not None:
            shards.sum_(counts)
        num_kept += int(counts)
    return num_kept / sum(r.num_entries for r in every)
