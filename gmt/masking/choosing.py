"""Chooses the entries to keep: ranks the parameters of a step by single entries or by larger units.

Shape suffixes: N entries of a parameter on this process, flattened; U units of a parameter.
"""

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
    """A score is NaN or Inf, and can't be ranked; `members` are the parameters of its group."""

    def __init__(self, members: Sequence[Ranked]):
        super().__init__(f"a score of {members[0].name} or of a parameter ranked with it is NaN or Inf")
        self.members = members


def groups_of(parameters: Sequence[Ranked], scope: str) -> list[list[Ranked]]:
    """Return the parameters in groups; each group has one threshold."""
    groups: dict[str, list[Ranked]] = {}
    for r in parameters:
        key = layer_of(r.name) if scope == "layer" else "" if scope == "global" else r.name
        groups.setdefault(key, []).append(r)
    return list(groups.values())


def choose_entries(
    groups: Sequence[Sequence[Ranked]], spec: MaskSpec, row: Row, *, may_zero: bool = False
) -> list[Selection]:
    """Return the selection of each group; scores are not stored, but computed whenever they are needed.

    Args:
        groups: for each threshold, the parameters that share it.
        spec, row: the mask's settings and its signal.
        may_zero: whether the selection may already zero the masked gradients, if the mask does nothing else at this
            step; `Selection.is_applied` says whether it did.

    Raises:
        NonFiniteScoreError: a score is NaN or Inf; no gradient is masked then.
    """
    only_zeroes = spec.mask_on == "gradient" and spec.moments == "dense" and not spec.outlives_a_step
    gradients = [[r.gradient_N for r in members] for members in groups]
    zeroes_now = may_zero and only_zeroes and row.name == "gradient"
    return _selected(
        [[r.scores(row) for r in members] for members in groups], groups, spec, row, gradients if zeroes_now else None
    )


def choose_units(
    groups: Sequence[Sequence[Ranked]], spec: MaskSpec, row: Row, units: Mapping[nn.Parameter, Units]
) -> dict[str, Tensor]:
    """Return a mask of the kept entries by the name of each parameter, bool of shape [N].

    Used for signals that score whole parameters and for grains above the entry. Groups are scored one after the other,
    which bounds the memory of the scores.

    Args:
        groups: for each threshold, the parameters that share it.
        spec, row: the mask's settings and its signal.
        units: the units of each parameter; empty if single entries are ranked.

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


def density(parameters: Sequence[Ranked], masks: Mapping[str, Tensor]) -> float:
    """Return the fraction of entries that masks keep, over all shards."""
    num_kept = 0
    for shards in dict.fromkeys(r.shards for r in parameters):
        counts = torch.stack([masks[r.name].sum() for r in parameters if r.shards == shards]).sum()
        if shards is not None:
            shards.sum_(counts)
        num_kept += int(counts)
    return num_kept / sum(r.num_entries for r in parameters)
