"""Exact selection of the k-th magnitude. Free functions of tensors; knows nothing of models or optimizers.

The magnitude of an IEEE float orders like its bits with the sign cleared, so that the k-th smallest is found
by counting: a histogram over the upper bits names the bin that holds it, and only that bin is ranked. The
histograms of several tensors add up, which is what makes a global threshold cost no more than many small ones.

Shape suffixes: N number of entries of one tensor, flattened; B number of bins.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

_SHIFT = 19  # a bin is an exponent and 4 bits of mantissa: the counts stay in a core's cache
NUM_BINS = 1 << (31 - _SHIFT)


def num_masked(mask_ratio: float, num_entries: int) -> int:
    """The number of entries that a ratio masks: the floor of `mask_ratio * num_entries`, always below the latter.

    The ratio is taken as the decimal that was written: 0.29 of 100 entries are 29, though in floating point
    the product is 28.999999999999996.
    """
    return math.floor(Fraction(repr(float(mask_ratio))) * num_entries)


def magnitude_bits(x: Tensor) -> Tensor:
    """The bits of |x| as float32, int32 of shape [N]: ordered like |x|, exact for float16, bfloat16 and float32."""
    return x.detach().reshape(-1).float().view(torch.int32) & 0x7FFFFFFF


def kth_smallest(bits: Sequence[Tensor], k: int) -> int:
    """The k-th smallest value, counting from 0, over all of `bits` together.

    Args:
        bits: int32 tensors of shape [N], from `magnitude_bits`; their lengths may differ.
        k: rank from 0; below the total number of entries.

    Returns:
        The bits of the k-th smallest magnitude, equal to what sorting everything would give.
    """
    bins = [b >> _SHIFT for b in bits]
    counts_B = torch.stack([torch.bincount(b, minlength=NUM_BINS) for b in bins]).sum(0)
    below_B = counts_B.cumsum(0)
    bin_of_k = int(torch.searchsorted(below_B, k, right=True))
    rank_in_bin = k - (int(below_B[bin_of_k - 1]) if bin_of_k else 0)
    inside = torch.cat([b[i == bin_of_k] for b, i in zip(bits, bins, strict=True)])
    return int(inside.kthvalue(rank_in_bin + 1).values)


def keep_masks(scores: Sequence[Tensor], mask_ratio: float) -> list[Tensor]:
    """Which entries stay when the smallest `mask_ratio` of all `scores` together are masked.

    With T the (m+1)-th smallest magnitude of all entries and m = num_masked, an entry stays if its magnitude is
    at least T and not zero (paper, Section 3.1: |g| >= T_k). Distinct magnitudes mask exactly m entries. Ties at
    the threshold all stay, as in the paper; zeros never count as kept, since there is nothing to keep.

    Args:
        scores: tensors of any shape and of a floating dtype, without NaN; one global threshold over all.
        mask_ratio: fraction to mask, in [0, 1).

    Returns:
        A bool tensor for each score, of its shape.
    """
    bits = [magnitude_bits(s) for s in scores]
    total = sum(b.numel() for b in bits)
    if total == 0:
        return [torch.zeros_like(s, dtype=torch.bool) for s in scores]
    threshold = max(kth_smallest(bits, num_masked(mask_ratio, total)), 1)
    return [(b >= threshold).view(s.shape) for b, s in zip(bits, scores, strict=True)]
