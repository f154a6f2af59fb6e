"""Selects by counts that add up over the tensors of a group and the shards of a tensor, on any devices.

The upper 15 bits of all entries are counted first; then, of the entries that share the threshold's upper bits, the next
8 bits and the last 8 bits.

Shape suffixes: G groups, each with one threshold; U upper bins and one more for exact zeros.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gmt.masking.bins import Place, bins_of_ranks, joint_counts
from gmt.masking.counting import NUM_UPPER, UPPER_OF_INF, Chunks, lower_bits, upper_counts
from gmt.masking.rule import Rule, Scores, Selection, size_of

_GROUPS_AT_ONCE = 8  # the counts of so many groups, 2 MB, fit into the processor's cache


def select_by_counts(groups: Sequence[Sequence[Scores]], rule: Rule) -> dict[int, Selection]:
    """Return the selection of each group, by index."""
    selections: list[Selection] = []
    for first in range(0, len(groups), _GROUPS_AT_ONCE):
        selections += _select_together(groups[first : first + _GROUPS_AT_ONCE], rule)
    return dict(enumerate(selections))


def _select_together(groups: Sequence[Sequence[Scores]], rule: Rule) -> list[Selection]:
    sizes = [size_of(group) for group in groups]
    upper_GU = joint_counts(groups, lambda parts, place: upper_counts(parts, place[0]))
    zeros_G = upper_GU[:, -1] * (not rule.rank_zeros)
    zeros, ranks = zeros_G.tolist(), rule.ranks(sizes, zeros_G).tolist()
    nonfinite = upper_GU[:, UPPER_OF_INF:-1].sum(1).tolist()
    uppers, left, ties = bins_of_ranks(upper_GU[:, :NUM_UPPER], ranks)
    lowers = [0] * len(groups)
    # A bfloat16's magnitude has no lower bits: if all scores of a group have this dtype, its threshold is found.
    with_lower = [i for i, group in enumerate(groups) if any(s.dtype != torch.bfloat16 for s in group)]
    for i, *numbers in zip(with_lower, *_lower_bins(groups, with_lower, uppers, left), strict=True):
        lowers[i], left[i], ties[i] = numbers
    thresholds = [upper << 16 | lower for upper, lower in zip(uppers, lowers, strict=True)]
    belows = [rank - rest for rank, rest in zip(ranks, left, strict=True)]
    return [rule.selection(*numbers) for numbers in zip(sizes, thresholds, belows, ties, zeros, nonfinite, strict=True)]


def _lower_bins(
    groups: Sequence[Sequence[Scores]], chosen: Sequence[int], uppers: list[int], ranks: list[int]
) -> tuple[list[int], list[int], list[int]]:
    """Return the results of `bins_of_ranks` for the lower 16 bits of the entries with given upper bits.

    Args:
        groups: all groups.
        chosen: the indices of the groups for which results are returned.
        uppers: for each group, the upper bits of the threshold.
        ranks: for each group, the threshold's rank among the entries with these upper bits.
    """
    if not chosen:
        return [], [], []
    groups, uppers, ranks = ([values[i] for i in chosen] for values in (groups, uppers, ranks))  # type: ignore[assignment]
    lowers: dict[Place, list[Tensor]] = {}

    def high_counts(parts: Sequence[Chunks], place: Place) -> Tensor:
        lowers[place] = lower_bits(parts, uppers, place[0])
        return torch.stack([torch.bincount(bits >> 8, minlength=256) for bits in lowers[place]])

    def low_counts(parts: Sequence[Chunks], place: Place) -> Tensor:
        inside = [bits[(bits >> 8) == high] & 0xFF for bits, high in zip(lowers[place], highs, strict=True)]
        return torch.stack([torch.bincount(bits, minlength=256) for bits in inside])

    highs, ranks, _ = bins_of_ranks(joint_counts(groups, high_counts), ranks)
    lows, ranks, ties = bins_of_ranks(joint_counts(groups, low_counts), ranks)
    return [high << 8 | low for high, low in zip(highs, lows, strict=True)], ranks, ties
