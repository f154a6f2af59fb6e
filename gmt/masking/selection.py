"""Exact selection of the k-th magnitude. Knows nothing of models or optimizers.

The magnitude of an IEEE float orders like its bits with the sign cleared, so that the k-th smallest is found by
counting. Counts add up, over the tensors of a group and over the shards of a tensor: one threshold over many
costs no more than many thresholds, and shards agree on it by exchanging counts.

Shape suffixes: G groups, each with one threshold; U upper bins and one more for exact zeros; K bins; F numbers that
were found.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from gmt.masking.counting import NUM_UPPER, UPPER_OF_INF, Chunks, fields, lower_bits, select_chunks, upper_counts
from gmt.masking.native import has_triton

LARGEST_BITS = 0x7FFFFFFF
_BITS_OF_INF = 0x7F800000
CHUNK = 1 << 20  # entries of the largest chunk of scores on the CPU
_ENTRIES_AT_ONCE = 1 << 23  # of small groups, which bounds what computed scores take
_GROUPS_AT_ONCE = 8  # their counts, 2 MB, stay in the cache


class Shards(Protocol):
    """Where the parts of a tensor lie; see sharding.py."""

    def sum_(self, counts: Tensor) -> None:
        """Adds up `counts` over all shards, in place."""
        ...


_CPU = torch.device("cpu")
_Place = tuple[torch.device, Shards | None]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What is ranked of one tensor.

    Args:
        chunks: gives the scores, flattened, in contiguous pieces, on the CPU of `CHUNK` entries, the last one shorter.
        dtype: of all chunks: float32, bfloat16, float16, or int32 for bits; the same on every shard.
        num_entries: of the whole tensor, over all shards.
        shards: how to add up over the other shards; None if the tensor is whole.
        device: where the chunks are.
    """

    chunks: Chunks
    dtype: torch.dtype
    num_entries: int
    shards: Shards | None
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which entries of a group stay: those whose magnitude's bits lie in [lowest, highest].

    Args:
        lowest, highest: bounds in bits, both included; empty if the first is above the second.
        num_entries: of the group, over all shards.
        num_kept: entries that stay.
        is_finite: whether no score was NaN or Inf; otherwise the bounds mean nothing.
    """

    lowest: int
    highest: int
    num_entries: int
    num_kept: int
    is_finite: bool

    def keeps(self, bits: Tensor) -> Tensor:
        """Which entries stay, as bool of the shape of `bits`."""
        kept = bits >= self.lowest
        return kept if self.highest == LARGEST_BITS else kept.logical_and_(bits <= self.highest)


def num_masked(mask_ratio: float, num_entries: int) -> int:
    """The number of entries that a ratio masks: the floor of `mask_ratio * num_entries`, always below the latter.

    The ratio is taken as the decimal that was written: 0.29 of 100 entries are 29, though in floating point
    the product is 28.999999999999996.
    """
    return math.floor(Fraction(repr(float(mask_ratio))) * num_entries)


def select(
    groups: Sequence[Sequence[Scores]], mask_ratio: float, *, keep: str = "largest", rank_zeros: bool = False
) -> list[Selection]:
    """Says for each group which entries stay when `mask_ratio` of them are masked.

    Of n entries the n - m with the largest (smallest) score that is not zero stay, with m = `num_masked`: for
    the largest, |g| >= T_k as in the paper, Section 3.1. Ties at the threshold all stay. A score of zero never
    stays, since a zero gradient leaves nothing to keep, unless `rank_zeros`.

    Args:
        groups: the tensors that share a threshold; every shard gives the same groups in the same order.
        mask_ratio: fraction to mask, in [0, 1).
        keep: which end stays, `largest` or `smallest`.
        rank_zeros: whether zero is a score like others.
    """
    rule = _Rule(mask_ratio=mask_ratio, smallest=keep == "smallest", rank_zeros=rank_zeros)
    done: dict[int, Selection] = {}
    batch: dict[int, Tensor] = {}
    batch_size = 0
    for i, group in enumerate(groups):
        if _is_alone(group):
            batch[i] = next(group[0].chunks())
            batch_size += group[0].num_entries
            if batch_size >= _ENTRIES_AT_ONCE:
                done |= _select_alone(batch, rule)
                batch, batch_size = {}, 0
    done |= _select_alone(batch, rule)
    launched = [(some, _find_by_fields([groups[i] for i in some], rule)) for some in _for_triton(groups)]
    for some, found_GF in launched:  # only here is the device waited for
        done |= {i: rule.selection(_size(groups[i]), *found) for i, found in zip(some, found_GF.tolist(), strict=True)}
    left = [i for i in range(len(groups)) if i not in done]
    for first in range(0, len(left), _GROUPS_AT_ONCE):
        some = left[first : first + _GROUPS_AT_ONCE]
        done |= zip(some, _select_together([groups[i] for i in some], rule), strict=True)
    return [done[i] for i in range(len(groups))]


@dataclass(frozen=True, kw_only=True)
class _Rule:
    mask_ratio: float
    smallest: bool
    rank_zeros: bool

    def ranks(self, sizes: Sequence[int], zeros_G: Tensor) -> Tensor:
        """The rank, from 0, of each group's threshold among all its magnitudes; `zeros_G` are those not ranked."""
        masked = [num_masked(self.mask_ratio, size) for size in sizes]
        if not self.smallest:
            return _sent(masked, zeros_G.device)
        size_G = _sent(sizes, zeros_G.device)
        return (zeros_G + size_G - _sent(masked, zeros_G.device)).minimum(size_G).sub_(1).clamp_(min=0)

    def selection(self, size: int, threshold: int, below: int, ties: int, zeros: int, nonfinite: int) -> Selection:
        """What a threshold means; `below` and `ties` are entries below and at it."""
        floor = 0 if self.rank_zeros else 1
        return Selection(
            lowest=floor if self.smallest else max(threshold, floor),
            highest=threshold if self.smallest else LARGEST_BITS,
            num_entries=size,
            num_kept=max(below + ties - zeros, 0) if self.smallest else size - max(below, zeros),
            is_finite=nonfinite == 0,
        )


def _size(group: Sequence[Scores]) -> int:
    return sum(scores.num_entries for scores in group)


def _sent(numbers: Sequence[int], device: torch.device) -> Tensor:
    """On a device, as int64; from pinned memory, since a copy from other memory waits for the device."""
    here = torch.tensor(numbers, dtype=torch.int64, pin_memory=device.type == "cuda")
    return here.to(device, non_blocking=True)


def _is_alone(group: Sequence[Scores]) -> bool:
    """Whether a group is one small tensor on the CPU, which the C can see through in one go."""
    return (
        len(group) == 1
        and group[0].shards is None
        and group[0].device.type == "cpu"
        and 0 < group[0].num_entries <= CHUNK
    )


def _select_alone(batch: dict[int, Tensor], rule: _Rule) -> dict[int, Selection]:
    sizes = [chunk.numel() for chunk in batch.values()]
    masked = [num_masked(rule.mask_ratio, size) for size in sizes]
    chunks = list(batch.values())
    found = select_chunks(chunks, masked, smallest=rule.smallest, rank_zeros=rule.rank_zeros) if batch else None
    if found is None:
        return {}
    return {
        i: rule.selection(size, f.threshold, f.below, f.ties, 0 if rule.rank_zeros else f.zeros, f.nonfinite)
        for i, size, f in zip(batch, sizes, found, strict=True)
    }


def _select_together(groups: Sequence[Sequence[Scores]], rule: _Rule) -> list[Selection]:
    """By counts that add up over the tensors of a group and the shards of a tensor."""
    sizes = [_size(group) for group in groups]
    upper_GU = _over_places(groups, lambda parts, place: upper_counts(parts, place[0]))
    zeros_G = upper_GU[:, -1] * (not rule.rank_zeros)
    zeros, ranks = zeros_G.tolist(), rule.ranks(sizes, zeros_G).tolist()
    nonfinite = upper_GU[:, UPPER_OF_INF:-1].sum(1).tolist()
    uppers, left, ties = _find(upper_GU[:, :NUM_UPPER], ranks)
    lowers = [0] * len(groups)
    # A bfloat16's magnitude is nothing but upper bits: where all are of that dtype, the threshold is found.
    deeper = [i for i, group in enumerate(groups) if any(s.dtype != torch.bfloat16 for s in group)]
    for i, *found in zip(deeper, *_find_lower(groups, deeper, uppers, left), strict=True):
        lowers[i], left[i], ties[i] = found
    thresholds = [upper << 16 | lower for upper, lower in zip(uppers, lowers, strict=True)]
    belows = [rank - rest for rank, rest in zip(ranks, left, strict=True)]
    return [rule.selection(*found) for found in zip(sizes, thresholds, belows, ties, zeros, nonfinite, strict=True)]


def _for_triton(groups: Sequence[Sequence[Scores]]) -> list[list[int]]:
    """The groups that Triton counts, by index, those together that are on one device and have the same fields.

    An empty group has no threshold, and one over several devices no place for its counts: they are not among them.
    """
    alike: dict[object, list[int]] = {}
    for i, group in enumerate(groups):
        devices = {scores.device for scores in group}
        if len(devices) == 1 and all(map(has_triton, devices)) and _size(group):
            alike.setdefault((devices.pop(), fields(scores.dtype for scores in group)), []).append(i)
    return list(alike.values())


def _find_by_fields(groups: Sequence[Sequence[Scores]], rule: _Rule) -> Tensor:
    """What `_Rule.selection` needs after the size, int64 of shape [G, F], without waiting for the device."""
    prefix_G = torch.zeros(len(groups), dtype=torch.int64, device=groups[0][0].device)
    for shift, width in fields(scores.dtype for group in groups for scores in group):
        is_first = shift + width == LARGEST_BITS.bit_length()
        counts_GK = _over_places(groups, partial(_field_counts, prefix_G, shift, width))
        if is_first:
            zeros_G = counts_GK[:, -1] * (not rule.rank_zeros)
            nonfinite_G = counts_GK[:, _BITS_OF_INF >> shift : -1].sum(1)
            ranks_G = left_G = rule.ranks([_size(group) for group in groups], zeros_G)
        bin_G, left_G, ties_G = _find_flat(counts_GK[:, :-1], left_G)
        prefix_G = prefix_G << width | bin_G
    return torch.stack([prefix_G << shift, ranks_G - left_G, ties_G, zeros_G, nonfinite_G], 1)


def _field_counts(prefix_G: Tensor, shift: int, width: int, parts: Sequence[Chunks], _: _Place) -> Tensor:
    from gmt.masking.triton_kernels import field_counts

    return field_counts(parts, prefix_G, shift, width)


def _find_lower(
    groups: Sequence[Sequence[Scores]], chosen: Sequence[int], uppers: list[int], ranks: list[int]
) -> tuple[list[int], list[int], list[int]]:
    """`_find` over the lower 16 bits of the entries whose upper bits are known: eight bits, then eight more.

    Only of the groups of the indices `chosen`.
    """
    if not chosen:
        return [], [], []
    groups, uppers, ranks = ([values[i] for i in chosen] for values in (groups, uppers, ranks))  # type: ignore[assignment]
    found: dict[_Place, list[Tensor]] = {}

    def high_counts(parts: Sequence[Chunks], place: _Place) -> Tensor:
        found[place] = lower_bits(parts, uppers, place[0])
        return torch.stack([torch.bincount(bits >> 8, minlength=256) for bits in found[place]])

    def low_counts(parts: Sequence[Chunks], place: _Place) -> Tensor:
        inside = [bits[(bits >> 8) == high] & 0xFF for bits, high in zip(found[place], highs, strict=True)]
        return torch.stack([torch.bincount(bits, minlength=256) for bits in inside])

    highs, ranks, _ = _find(_over_places(groups, high_counts), ranks)
    lows, ranks, ties = _find(_over_places(groups, low_counts), ranks)
    return [high << 8 | low for high, low in zip(highs, lows, strict=True)], ranks, ties


def _over_places(groups: Sequence[Sequence[Scores]], count: Callable[[Sequence[Chunks], _Place], Tensor]) -> Tensor:
    """Counts here, device by device and sharding by sharding, and adds up, over shards too.

    A tensor that is whole here is the same on every process, and counted once.
    """
    counted = []
    for place in dict.fromkeys((s.device, s.shards) for group in groups for s in group) or [(_CPU, None)]:
        parts = [_chunks([s for s in group if (s.device, s.shards) == place]) for group in groups]
        counts = count(parts, place)
        if place[1] is not None:
            place[1].sum_(counts)
        counted.append(counts)
    return sum((counts.to(counted[0].device) for counts in counted[1:]), start=counted[0])


def _chunks(group: Sequence[Scores]) -> Chunks:
    def chunks() -> Iterator[Tensor]:
        for scores in group:
            yield from scores.chunks()

    return chunks


def _find(counts_GK: Tensor, ranks: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """The bin that holds each group's rank, the rank inside that bin, and the bin's count.

    In two steps, blocks of 256 bins and bins, since running sums over all bins would cost more than counting them.
    """
    groups_G = torch.arange(len(ranks), device=counts_GK.device)
    blocks_GBb = counts_GK.reshape(len(ranks), -1, 256)
    rank_G = torch.tensor(ranks, device=counts_GK.device)
    block_G, rank_G, _ = _find_flat(blocks_GBb.sum(2), rank_G)
    bin_G, rank_G, count_G = _find_flat(blocks_GBb[groups_G, block_G], rank_G)
    return (block_G * 256 + bin_G).tolist(), rank_G.tolist(), count_G.tolist()


def _find_flat(counts_GK: Tensor, rank_G: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    running_GK = counts_GK.cumsum(1)
    bin_G1 = torch.searchsorted(running_GK, rank_G[:, None], right=True).clamp_(max=counts_GK.shape[1] - 1)
    count_G = counts_GK.gather(1, bin_G1)[:, 0]
    return bin_G1[:, 0], rank_G - (running_GK.gather(1, bin_G1)[:, 0] - count_G), count_G
