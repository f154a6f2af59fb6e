"""The rule of a selection: the scores that are ranked, the number of kept entries, and the meaning of a threshold.

The magnitudes of IEEE floats have the same order as their bits without the sign, read as integers. So thresholds and
bounds are such integers, "in bits".

Shape suffix: G groups, each with one threshold.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor

from gmt.masking.counting import Chunks

LARGEST_BITS = 0x7FFFFFFF
CHUNK = 1 << 20  # the most entries of a chunk of scores on the CPU


class Shards(Protocol):
    """The processes that hold the parts of a tensor; see sharding.py."""

    def sum_(self, counts: Tensor) -> None:
        """Add up `counts` over all shards, in place."""
        ...


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Scores that are hashes of the entries' indices; see random_bits.py.

    Args:
        key: the key of the hash.
        start: the index of the first entry.
    """

    key: tuple[int, int]
    start: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of one tensor's entries.

    Args:
        chunks: returns the scores, flattened, in contiguous pieces; on the CPU each has `CHUNK` entries, except the
            last.
        dtype: the dtype of all chunks: float32, bfloat16, float16, or int32 for bits; the same on every shard.
        num_entries: the number of entries of the whole tensor, over all shards.
        shards: the processes that hold the other parts; None if the tensor is not sharded.
        device: the device of the chunks.
        is_view: whether the chunks are parts of an existing tensor, and not computed.
        draw: the hashes that the chunks hold, if the scores are drawn.
    """

    chunks: Chunks
    dtype: torch.dtype
    num_entries: int
    shards: Shards | None
    device: torch.device
    is_view: bool = False
    draw: Draw | None = None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The kept entries of a group: those whose magnitude, in bits, lies in [lowest, highest].

    Args:
        lowest, highest: bounds in bits, both included; no entry is kept if the first is above the second.
        num_entries: the number of the group's entries, over all shards.
        num_kept: the number of kept entries.
        is_finite: whether all scores are finite; otherwise the bounds are meaningless.
        is_applied: whether the masked entries have been zeroed already.
    """

    lowest: int
    highest: int
    num_entries: int
    num_kept: int
    is_finite: bool
    is_applied: bool = False

    def keeps(self, bits: Tensor) -> Tensor:
        """Return a mask of the kept entries, bool of the shape of `bits`."""
        keep = bits >= self.lowest
        return keep if self.highest == LARGEST_BITS else keep.logical_and_(bits <= self.highest)


@functools.lru_cache(maxsize=1 << 13)  # a model has the same sizes at every step
def num_masked(mask_ratio: float, num_entries: int) -> int:
    """Return floor(mask_ratio * num_entries), the number of masked entries; it is less than `num_entries`.

    The ratio is read as a decimal number: 0.29 of 100 entries are 29, though the floating-point product is
    28.999999999999996.
    """
    return math.floor(Fraction(repr(float(mask_ratio))) * num_entries)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Settings that decide which entries are kept.

    Args:
        mask_ratio: the fraction that is masked, in [0, 1).
        smallest: whether the entries with the smallest magnitudes are kept, instead of those with the largest.
        rank_zeros: whether entries with score zero are ranked; otherwise they are never kept.
    """

    mask_ratio: float
    smallest: bool
    rank_zeros: bool

    @property
    def ranks_from_zeros(self) -> bool:
        """Whether a threshold's rank depends on the number of zeros, which come first and are not ranked."""
        return self.smallest and not self.rank_zeros

    def ranks(self, sizes: Sequence[int], zeros_G: Tensor) -> Tensor:
        """Return the rank, from 0, of each group's threshold among the group's magnitudes in ascending order.

        Args:
            sizes: the number of entries of each group.
            zeros_G: the number of zeros in each group that are not ranked.
        """
        masked = [num_masked(self.mask_ratio, size) for size in sizes]
        if not self.smallest:
            return to_device(masked, zeros_G.device)
        size_G = to_device(sizes, zeros_G.device)
        return (zeros_G + size_G - to_device(masked, zeros_G.device)).minimum(size_G).sub_(1).clamp_(min=0)

    def margin(self, num_samples: int, deviations: float) -> int:
        """Return the margin, in places, that bounds a threshold on both sides of its rank in a sorted sample.

        Args:
            num_samples: the number of sampled entries.
            deviations: the margin in standard deviations of the binomial distribution.
        """
        # If the smallest are kept, the number of zeros before the rank is estimated too; 0.5 is the worst fraction.
        fraction = 0.5 if self.smallest else self.mask_ratio
        deviation = math.sqrt(num_samples * fraction * (1 - fraction)) * (2 if self.smallest else 1)
        return math.ceil(deviations * deviation) + 1

    def selection(
        self, size: int, threshold: int, below: int, ties: int, zeros: int, nonfinite: int, *, is_applied: bool = False
    ) -> Selection:
        """Return the selection that follows from a threshold.

        Args:
            size: the number of entries of the group.
            threshold: the threshold in bits.
            below, ties: the numbers of entries below the threshold, and equal to it.
            zeros: the number of entries that are zero and therefore not ranked.
            nonfinite: above 0 if an entry is NaN or Inf.
            is_applied: see `Selection`.
        """
        floor = 0 if self.rank_zeros else 1
        return Selection(
            lowest=floor if self.smallest else max(threshold, floor),
            highest=threshold if self.smallest else LARGEST_BITS,
            num_entries=size,
            num_kept=max(below + ties - zeros, 0) if self.smallest else size - max(below, zeros),
            is_finite=nonfinite == 0,
            is_applied=is_applied,
        )

    def bounds(self, threshold_G: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bounds of `selection` for thresholds in bits, on the thresholds' device."""
        floor_G = torch.full_like(threshold_G, 0 if self.rank_zeros else 1)
        if self.smallest:
            return floor_G, threshold_G
        return threshold_G.maximum(floor_G), torch.full_like(threshold_G, LARGEST_BITS)


def size_of(group: Sequence[Scores]) -> int:
    """Return the number of entries of a group, over all shards."""
    return sum(scores.num_entries for scores in group)


def to_device(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Return numbers as int64 on a device, without waiting: a copy from memory that is not pinned would wait."""
    on_cpu = torch.tensor(numbers, dtype=torch.int64, device="cpu", pin_memory=device.type == "cuda")
    return on_cpu.to(device, non_blocking=True)
