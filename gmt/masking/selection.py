"""Exact selection of the k-th magnitude. Knows nothing of models or optimizers."""

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
    """Return for each group which entries stay when `mask_ratio` of them are masked.

    Of n entries the n - m with the largest (smallest) score that is not zero stay, with m = `num_masked`: for
    the largest, |g| >= T_k as in the paper, Section 3.1. Ties at the threshold all stay. A score of zero never
    stays, since a zero gradient leaves nothing to keep, unless `rank_zeros`.

    Args:
        groups: the tensors that share a threshold; every shard gives the same groups in the same order.
        mask_ratio: fraction to mask, in [0, 1).
        keep: whether the entries with the `largest` or the `smallest` scores stay.
        rank_zeros: whether zero is a score like others.
        zero: for each of the scores, a float tensor of as many entries, contiguous and of shape [N]: the scores
            themselves, or the tensor that a draw masks. Its entries that do not stay may be zeroed, which on a GPU
            takes no further wait; `Selection.is_applied` says whether they were. None are zeroed if a score is NaN or
            Inf.
    """
    rule = Rule(mask_ratio=mask_ratio, smallest=keep == "smallest", rank_zeros=rank_zeros)
    done: dict[int, Selection] = {}
    for selector in (select_alone, select_over_chunks, select_by_bracket, select_by_fields, select_by_counts):
        remaining = [i for i in range(len(groups)) if i not in done]
        may_zero = selector is select_by_bracket
        options: dict[str, Any] = {"zero": [zero[i] for i in remaining]} if zero and may_zero else {}
        selections = selector([groups[i] for i in remaining], rule, **options)
        done |= {remaining[i]: selection for i, selection in selections.items()}
    return [done[i] for i in range(len(groups))]
