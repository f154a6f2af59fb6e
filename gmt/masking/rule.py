"""The rule of a selection: what is ranked, how many entries stay, and what a threshold means.

The magnitude of an IEEE float orders like its bits with the sign cleared, so that a threshold is a number of bits.

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
CHUNK = 1 << 20  # entries of the largest chunk of scores on the CPU


class Shards(Protocol):
    """Where the parts of a tensor lie; see sharding.py."""

    def sum_(self, counts: Tensor) -> None:
        """Adds up `counts` over all shards, in place."""
        ...


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Scores that are hashes of the entries' indices; see random_bits.py.

    Args:
        key: of the hash.
        start: the first index.
    """

    key: tuple[int, int]
    start: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What is ranked of one tensor.

    Args:
        chunks: gives the scores, flattened, in contiguous pieces, on the CPU of `CHUNK` entries, the last one shorter.
        dtype: of all chunks: float32, bfloat16, float16, or int32 for bits; the same on every shard.
        num_entries: of the whole tensor, over all shards.
        shards: how to add up over the other shards; None if the tensor is whole.
        device: where the chunks are.
        is_view: whether the chunks are parts of a tensor that exists already.
        draw: which hashes the chunks hold, if they are drawn.
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
    """Which entries of a group stay: those whose magnitude's bits lie in [lowest, highest].

    Args:
        lowest, highest: bounds in bits, both included; empty if the first is above the second.
        num_entries: of the group, over all shards.
        num_kept: entries that stay.
        is_finite: whether no score was NaN or Inf; otherwise the bounds mean nothing.
        is_applied: whether the entries that do not stay are zero already.
    """

    lowest: int
    highest: int
    num_entries: int
    num_kept: int
    is_finite: bool
    is_applied: bool = False

    def keeps(self, bits: Tensor) -> Tensor:
        """Which entries stay, as bool of the shape of `bits`."""
        kept = bits >= self.lowest
        return kept if self.highest == LARGEST_BITS else kept.logical_and_(bits <= self.highest)


@functools.lru_cache(maxsize=1 << 13)  # a model has the same sizes at every step
def num_masked(mask_ratio: float, num_entries: int) -> int:
    """The number of entries that a ratio masks: the floor of `mask_ratio * num_entries`, always below the latter.

    The ratio is taken as the decimal that was written: 0.29 of 100 entries are 29, though in floating point
    the product is 28.999999999999996.
    """
    return math.floor(Fraction(repr(float(mask_ratio))) * num_entries)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which entries stay.

    Args:
        mask_ratio: the fraction that is masked, in [0, 1).
        smallest: whether those of least magnitude stay, in the place of the largest.
        rank_zeros: whether zero is a score like others.
    """

    mask_ratio: float
    smallest: bool
    rank_zeros: bool

    @property
    def ranks_from_zeros(self) -> bool:
        """Whether a threshold's rank depends on how many zeros there are, which come first and are not ranked."""
        return self.smallest and not self.rank_zeros

    def ranks(self, sizes: Sequence[int], zeros_G: Tensor) -> Tensor:
        """Return the rank, from 0, of each group's threshold among its magnitudes; `zeros_G` of them are not ranked."""
        masked = [num_masked(self.mask_ratio, size) for size in sizes]
        if not self.smallest:
            return to_device(masked, zeros_G.device)
        size_G = to_device(sizes, zeros_G.device)
        return (zeros_G + size_G - to_device(masked, zeros_G.device)).minimum(size_G).sub_(1).clamp_(min=0)

    def margin(self, num_samples: int, deviations: float) -> int:
        """Return how many places a threshold's rank in a sorted sample may be off.

        Args:
            num_samples: how many entries were drawn.
            deviations: standard deviations of the binomial distribution.
        """
        # Where the smallest stay, the number of zeros before the rank is estimated too; a half is the worst fraction.
        fraction = 0.5 if self.smallest else self.mask_ratio
        deviation = math.sqrt(num_samples * fraction * (1 - fraction)) * (2 if self.smallest else 1)
        return math.ceil(deviations * deviation) + 1

    def selection(
        self, size: int, threshold: int, below: int, ties: int, zeros: int, nonfinite: int, *, is_applied: bool = False
    ) -> Selection:
        """Return the selection that a threshold makes.

        Args:
            size: entries of the group.
            threshold: in bits.
            below, ties: entries below the threshold and at it.
            zeros: entries that are not ranked, since they are zero.
            nonfinite: entries that are NaN or Inf.
            is_applied: as `Selection` has it.
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
        """Return the bounds that `selection` has, of thresholds in bits on their device."""
        floor_G = torch.full_like(threshold_G, 0 if self.rank_zeros else 1)
        if self.smallest:
            return floor_G, threshold_G
        return threshold_G.maximum(floor_G), torch.full_like(threshold_G, LARGEST_BITS)


def size_of(group: Sequence[Scores]) -> int:
    """Return the number of entries of a group, over all shards."""
    return sum(scores.num_entries for scores in group)


def to_device(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Return numbers as int64 on a device; pinned first, since a copy from other memory waits for the device."""
    here = torch.tensor(numbers, dtype=torch.int64, device="cpu", pin_memory=device.type == "cuda")
    return here.to(device, non_blocking=True)
