"""Exact selection of the entries with the largest or smallest scores. Knows nothing of models or optimizers."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gmt.masking.rule import Rule, Scores, Selection
from gmt.masking.select_alone import select_alone
from gmt.masking.select_by_bracket import select_by_bracket
from gmt.masking.select_by_counts import select_by_counts
from gmt.masking.select_by_fields import select_by_fields
from gmt.masking.select_over_chunks import select_over_chunks


def select(
    groups: Sequence[Sequence[Scores]],
    mask_ratio: float,
    *,
    keep: str = "largest",
    rank_zeros: bool = False,
    zero: Sequence[Sequence[Tensor]] | None = None,
) -> list[Selection]:
    """Return the kept entries of each group if `mask_ratio` of its entries are masked.

    Of n entries, the n - m with the largest (or smallest) magnitudes are kept, with m = `num_masked`; for the largest,
    |g| >= T_k as in the paper, Section 3.1. All ties at the threshold are kept. Entries with score zero are never kept
    unless `rank_zeros`, since a gradient of zero changes nothing.

    Args:
        groups: for each threshold, the scores that share it; the same groups in the same order on every process.
        mask_ratio: the fraction to mask, in [0, 1).
        keep: `largest` or `smallest`: the scores whose entries are kept.
        rank_zeros: whether entries with score zero are ranked and may be kept.
        zero: for each tensor of scores, a contiguous float tensor of as many entries, of shape [N]: the scores
            themselves, or the tensor that a draw masks. Its masked entries may be zeroed here, which on a GPU needs no
            further wait; `Selection.is_applied` says whether they were. None are zeroed if a score is NaN or Inf.
    """
    rule = Rule(mask_ratio=mask_ratio, smallest=keep == "smallest", rank_zeros=rank_zeros)
    selections: dict[int, Selection] = {}
    for selector in (select_alone, select_over_chunks, select_by_bracket, select_by_fields, select_by_counts):
        remaining = [i for i in range(len(groups)) if i not in selections]
        may_zero = selector is select_by_bracket
        options: dict[str, Any] = {"zero": [zero[i] for i in remaining]} if zero and may_zero else {}
        selected = selector([groups[i] for i in remaining], rule, **options)
        selections |= {remaining[i]: selection for i, selection in selected.items()}
    return [selections[i] for i in range(len(groups))]
