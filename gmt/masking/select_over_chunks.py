"""Selects on the CPU in groups of many chunks, in one read of the scores.

As in select_alone.py, a sample bounds the threshold; here the samples, the counts and the entries between the bounds
are joined over a group's chunks before the threshold is found. Scores that are not stored are computed twice: for the
sample, and for the counts. Groups whose threshold lies outside of the bounds, and tensors in shards, are left to
select_by_counts.py.

Shape suffixes: S samples of a group; K entries between the bounds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gmt.masking.counting import in_batches, in_threads
from gmt.masking.native import Bracket, Chunk, library
from gmt.masking.rule import LARGEST_BITS, Rule, Scores, Selection, size_of
from gmt.masking.select_alone import DEVIATIONS, SLACK, is_whole_on_cpu, num_samples, parts

_HIGHEST = LARGEST_BITS - 1  # the highest possible bound, HIGHEST of select.c
_LARGEST_GROUP = 1 << 32  # entries: the C code counts with 32 bits
_BYTES = 4  # the size of an int32, which holds the bits of a magnitude


def select_over_chunks(groups: Sequence[Sequence[Scores]], rule: Rule) -> dict[int, Selection]:
    """Return the selections, by index, of groups on the CPU without shards; empty without the C code.

    Groups whose threshold lies outside of the bounds of its sample are left out.
    """
    if library() is None:
        return {}
    indices = [i for i, group in enumerate(groups) if is_whole_on_cpu(group) and size_of(group) < _LARGEST_GROUP]
    groups_here = [groups[i] for i in indices]
    counts = _bounded(groups_here, rule)
    _split(groups_here, counts)
    selections = {i: _selection(size_of(groups[i]), count, rule) for i, count in zip(indices, counts, strict=True)}
    return {i: selection for i, selection in selections.items() if selection is not None}


def _batches(groups: Sequence[Sequence[Scores]]) -> Iterator[list[tuple[Chunk, Tensor | None]]]:
    """Yield lists of chunks that one call of the C code works on, each chunk with the tensor that holds its entries."""
    chunks = (part for i, group in enumerate(groups) for scores in group for part in parts(i, scores))
    return in_batches(chunks, lambda part: int(part[0].size))


class _Gathered:
    """The bits of a group's magnitudes between its bounds, gathered from the group's chunks.

    Args:
        expected: their approximate number; if there are more, the buffer is replaced by a larger one.
    """

    def __init__(self, expected: int):
        self.num = 0
        self.bits_K = torch.empty(_capacity_for(expected), dtype=torch.int32)

    def add(self, buffer: Tensor, num: int) -> None:
        """Add the first `num` numbers of a buffer; memmove is faster than torch's copy, which starts threads."""
        if _capacity_for(self.num + num) > len(self.bits_K):
            smaller, self.bits_K = self.bits_K, torch.empty(_capacity_for(2 * (self.num + num)), dtype=torch.int32)
            ctypes.memmove(self.bits_K.data_ptr(), smaller.data_ptr(), _BYTES * self.num)
        ctypes.memmove(self.bits_K.data_ptr() + _BYTES * self.num, buffer.data_ptr(), _BYTES * num)
        self.num += num


def _capacity_for(num: int) -> int:
    return 2 * num + SLACK  # `find_rank` of select.c needs space for twice the numbers


@dataclass
class _Counts:
    """The bounds and the counts of a group; low, high, below, zeros and nonfinite are those of `bracket` in select.c.

    Args:
        count_zeros: whether zeros are counted.
        num_between: the number of entries in [low, high].
        between: the bits of these entries' magnitudes; None if low and high are equal.
        expected: the approximate number of entries in [low, high].
    """

    low: int
    high: int
    count_zeros: bool
    below: int = 0
    zeros: int = 0
    nonfinite: int = 0
    num_between: int = 0
    between: _Gathered | None = None
    expected: int = 0


def _bounded(groups: Sequence[Sequence[Scores]], rule: Rule) -> list[_Counts]:
    """Return the bounds of each group's threshold, with counts of zero."""
    samples = [torch.empty(num_samples(size_of(group)), dtype=torch.int32) for group in groups]
    num_read = [0] * len(groups)  # the entries of each group in the chunks so far
    sampled = [group if len(sample_S) else () for group, sample_S in zip(groups, samples, strict=True)]
    for batch in _batches(sampled):
        chunks = (Chunk * len(batch))(*(chunk for chunk, _ in batch))
        for chunk in chunks:
            sample_S, size = samples[chunk.group], size_of(groups[chunk.group])
            start = num_read[chunk.group]
            num_read[chunk.group] += chunk.size
            first, end = (len(sample_S) * index // size for index in (start, start + chunk.size))
            chunk.out, chunk.found = sample_S.data_ptr() + 4 * first, end - first
        in_threads(_native().sample_chunks, chunks, [()])
    return [_bounds(sample_S, group, rule) for sample_S, group in zip(samples, groups, strict=True)]


def _bounds(sample_S: Tensor, group: Sequence[Scores], rule: Rule) -> _Counts:
    num, size = len(sample_S), size_of(group)
    if not num:
        return _Counts(1, _HIGHEST, count_zeros=True)
    zeros = int((sample_S == 0).sum()) * size // num if rule.ranks_from_zeros else 0
    place = _rank(size, zeros, rule) * num // size
    margin = rule.margin(num, DEVIATIONS) + len(group)  # each tensor's number of samples is rounded
    first, last = place - margin, place + margin
    low = 0 if first < 0 else _at_rank(sample_S.clone(), num, 0, LARGEST_BITS, first)[0]
    high = _HIGHEST if last >= num else _at_rank(sample_S, num, 0, LARGEST_BITS, last)[0]
    # zeros below the lower bound are below the threshold, so their number is not needed
    count_zeros = rule.smallest or low == 0
    return _Counts(max(low, 1), min(max(high, 1), _HIGHEST), count_zeros, expected=size * 2 * (margin + 1) // num)


def _split(groups: Sequence[Sequence[Scores]], counts: Sequence[_Counts]) -> None:
    """Count the entries below and between the bounds, and gather those between them."""
    buffers: list[Tensor] = []
    for batch in _batches(groups):
        # A buffer can hold every entry; the system hands out only the pages that are written.
        largest = max(chunk.size for chunk, _ in batch) + SLACK
        if len(buffers) < len(batch) or len(buffers[0]) < largest:
            buffers = [torch.empty(largest, dtype=torch.int32) for _ in batch]
        brackets = (Bracket * len(batch))()
        for bracket, (chunk, _), buffer in zip(brackets, batch, buffers, strict=False):
            chunk.out = buffer.data_ptr()
            count = counts[chunk.group]
            bracket.data, bracket.low, bracket.high = chunk, count.low, count.high
            bracket.count_zeros = count.count_zeros
        in_threads(_native().split_chunks, brackets, [()] * torch.get_num_threads())
        for bracket, buffer in zip(brackets, buffers, strict=False):
            count = counts[bracket.data.group]
            count.below += bracket.below
            count.zeros += bracket.zeros
            count.nonfinite += bracket.nonfinite
            count.num_between += bracket.data.found
            if count.low < count.high:
                count.between = count.between or _Gathered(count.expected)
                count.between.add(buffer, bracket.data.found)


def _selection(size: int, count: _Counts, rule: Rule) -> Selection | None:
    """Return a group's selection; None if the threshold does not lie between the bounds."""
    zeros = 0 if rule.rank_zeros else count.zeros
    rank = _rank(size, zeros, rule)
    if rank < count.zeros:
        place = 0, 0, count.zeros
    elif not count.below <= rank < count.below + count.num_between:
        return None
    elif count.low == count.high:  # many ties, which are not gathered, since that would take 12 bytes an entry
        place = count.low, count.below, count.num_between
    else:
        assert count.between is not None
        between_K = count.between.bits_K
        threshold, below, ties = _at_rank(between_K, count.num_between, count.low, count.high, rank - count.below)
        place = threshold, count.below + below, ties
    return rule.selection(size, *place, zeros, count.nonfinite)


def _native() -> ctypes.CDLL:
    native = library()
    assert native is not None
    return native


def _rank(size: int, zeros: int, rule: Rule) -> int:
    return int(rule.ranks([size], torch.tensor([zeros]))[0])


def _at_rank(bits_K: Tensor, num: int, lowest: int, highest: int, rank: int) -> tuple[int, int, int]:
    """Return the number at a rank among the first `num` numbers, and how many numbers are below it and equal to it.

    Args:
        bits_K: the numbers, which are overwritten; if `lowest` is above 0, with space for `num` more, and for SLACK.
        num: how many numbers.
        lowest, highest: bounds of the numbers.
        rank: the rank, from 0.
    """
    result = (ctypes.c_int64 * 3)()
    _native().find_rank(bits_K.data_ptr(), num, lowest, highest, rank, result)
    threshold, below, ties = result
    return threshold, below, ties
