"""The selection on the CPU in groups of many chunks, in one read of the scores: as select_alone.py has it, and over all
chunks of a group.

Computed scores are computed twice, for the sample and for the counts. A group that its sample misled is left to
select_by_counts.py, as are tensors in shards.

Shape suffixes: S samples of a group; K entries between the bounds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmt.masking.counting import AT_ONCE, chunk_of, chunk_of_hashes, in_threads, readable
from gmt.masking.native import Bracket, Chunk, library
from gmt.masking.rule import CHUNK, LARGEST_BITS, Rule, Scores, Selection, size_of
from gmt.masking.select_alone import DEVIATIONS, SLACK, num_samples

HIGHEST = LARGEST_BITS - 1  # bound, as in select.c
_LARGEST_GROUP = 1 << 32  # the C code counts with 32 bits


def select_over_chunks(groups: Sequence[Sequence[Scores]], rule: Rule) -> dict[int, Selection]:
    """Return selections of groups that lie whole on the CPU, by index; none without the C code."""
    if library() is None:
        return {}
    chosen = [i for i, group in enumerate(groups) if _is_here(group)]
    here = [groups[i] for i in chosen]
    counts = _bounded(here, rule)
    _split(here, counts)
    found = {i: _selection(size_of(groups[i]), count, rule) for i, count in zip(chosen, counts, strict=True)}
    return {i: selection for i, selection in found.items() if selection is not None}


def _is_here(group: Sequence[Scores]) -> bool:
    is_whole = all(scores.shards is None and scores.device.type == "cpu" for scores in group)
    return is_whole and 0 < size_of(group) < _LARGEST_GROUP


class _Batch:
    """Chunks of several groups that are worked on together, and the tensors that hold their entries."""

    def __init__(self, parts: Sequence[tuple[Chunk, Tensor | None]]):
        self.chunks = (Chunk * len(parts))(*(chunk for chunk, _ in parts))
        self._tensors = [tensor for _, tensor in parts]

    def call(self, function: Callable[..., None], tasks: ctypes.Array[Any], num_threads: int) -> None:
        """Call a function of select.c with one task for each chunk."""
        shared = (tasks, len(tasks), ctypes.byref(ctypes.c_int64(0)))
        in_threads(function, [shared] * min(num_threads, len(tasks)))


def _batches(groups: Sequence[Sequence[Scores]]) -> Iterator[_Batch]:
    parts: list[tuple[Chunk, Tensor | None]] = []
    size = 0
    for i, group in enumerate(groups):
        for chunk, tensor in (part for scores in group for part in _parts(i, scores)):
            parts.append((chunk, tensor))
            size += chunk.size
            if size >= AT_ONCE:
                yield _Batch(parts)
                parts, size = [], 0
    if parts:
        yield _Batch(parts)


def _parts(group: int, scores: Scores) -> Iterator[tuple[Chunk, Tensor | None]]:
    if scores.draw is not None:
        for at in range(0, scores.num_entries, CHUNK):
            size = min(CHUNK, scores.num_entries - at)
            yield chunk_of_hashes(group, size, scores.draw.start + at, scores.draw.key), None
        return
    for chunk_N in map(readable, scores.chunks()):
        if chunk_N.numel():
            yield chunk_of(group, chunk_N), chunk_N


@dataclass
class _Counts:
    """The counts of a group by its bounds, as the `bracket` of select.c has them, and the magnitudes' bits between."""

    low: int
    high: int
    count_zeros: bool
    below: int = 0
    zeros: int = 0
    nonfinite: int = 0
    between: tuple[Tensor, ...] = ()


def _bounded(groups: Sequence[Sequence[Scores]], rule: Rule) -> list[_Counts]:
    """Return the bounds of each group's threshold, with nothing counted yet."""
    samples = [torch.empty(num_samples(size_of(group)), dtype=torch.int32) for group in groups]
    seen = [0] * len(groups)  # entries of each group so far
    sampled = [group if len(sample_S) else () for group, sample_S in zip(groups, samples, strict=True)]
    for batch in _batches(sampled):
        for chunk in batch.chunks:
            sample_S, size = samples[chunk.group], size_of(groups[chunk.group])
            first, end = (len(sample_S) * at // size for at in (seen[chunk.group], seen[chunk.group] + chunk.size))
            seen[chunk.group] += chunk.size
            chunk.out, chunk.found = sample_S.data_ptr() + 4 * first, end - first
        batch.call(_native().sample_chunks, batch.chunks, num_threads=1)
    return [_bounds(sample_S, group, rule) for sample_S, group in zip(samples, groups, strict=True)]


def _bounds(sample_S: Tensor, group: Sequence[Scores], rule: Rule) -> _Counts:
    num, size = len(sample_S), size_of(group)
    if not num:
        return _Counts(1, HIGHEST, count_zeros=True)
    is_ranked_by_zeros = rule.smallest and not rule.rank_zeros
    zeros = int((sample_S == 0).sum()) * size // num if is_ranked_by_zeros else 0
    place = _rank(size, zeros, rule) * num // size
    margin = rule.margin(num, DEVIATIONS) + len(group)  # each chunk's number of samples is rounded
    first, last = place - margin, place + margin
    low = 0 if first < 0 else _at_rank(sample_S.clone(), num, 0, LARGEST_BITS, first)[0]
    high = HIGHEST if last >= num else _at_rank(sample_S, num, 0, LARGEST_BITS, last)[0]
    # zeros below the lower bound are below the threshold, and no more need be known of them
    return _Counts(max(low, 1), min(max(high, 1), HIGHEST), count_zeros=rule.smallest or low == 0)


def _split(groups: Sequence[Sequence[Scores]], counts: Sequence[_Counts]) -> None:
    """Count and gather by the bounds."""
    rooms: list[Tensor] = []
    for batch in _batches(groups):
        # Room for every entry, of which the system hands out only what is written.
        largest = max(chunk.size for chunk in batch.chunks) + SLACK
        if len(rooms) < len(batch.chunks) or len(rooms[0]) < largest:
            rooms = [torch.empty(largest, dtype=torch.int32) for _ in batch.chunks]
        brackets = (Bracket * len(rooms))()
        for bracket, chunk, room in zip(brackets, batch.chunks, rooms, strict=False):
            chunk.out = room.data_ptr()
            count = counts[chunk.group]
            bracket.data, bracket.low, bracket.high = chunk, count.low, count.high
            bracket.count_zeros = count.count_zeros
        batch.call(_native().split_chunks, brackets, torch.get_num_threads())
        for bracket, room in zip(brackets, rooms, strict=False):
            count = counts[bracket.data.group]
            count.below += bracket.below
            count.zeros += bracket.zeros
            count.nonfinite += bracket.nonfinite
            count.between += (_joined([room[: bracket.data.found]], bracket.data.found),)


def _selection(size: int, count: _Counts, rule: Rule) -> Selection | None:
    """Return a group's selection, or None where the threshold's rank does not lie between the bounds."""
    zeros, num_between = 0 if rule.rank_zeros else count.zeros, sum(map(len, count.between))
    rank, end = _rank(size, zeros, rule), count.below + num_between
    if rank < count.zeros:
        found = 0, 0, count.zeros
    elif not count.below <= rank < end:
        return None
    else:
        between_K = _joined(count.between, 2 * num_between + SLACK)
        threshold, below, ties = _at_rank(between_K, num_between, count.low, count.high, rank - count.below)
        found = threshold, count.below + below, ties
    return rule.selection(size, *found, zeros, count.nonfinite)


def _native() -> ctypes.CDLL:
    native = library()
    assert native is not None
    return native


def _rank(size: int, zeros: int, rule: Rule) -> int:
    return int(rule.ranks([size], torch.tensor([zeros]))[0])


def _joined(parts: Sequence[Tensor], room: int) -> Tensor:
    """Return a tensor that begins with copies of parts; torch would start its threads, slower than such a copy."""
    whole = torch.empty(room, dtype=torch.int32)
    at = whole.data_ptr()
    for part in parts:
        ctypes.memmove(at, part.data_ptr(), part.nbytes)
        at += part.nbytes
    return whole


def _at_rank(bits_K: Tensor, num: int, lowest: int, highest: int, rank: int) -> tuple[int, int, int]:
    """Return the number at a rank among the first `num` numbers, and how many are below and at it; spends them.

    Args:
        bits_K: where `lowest` is not 0, with room for as many more, and for the C code's slack.
        num: how many numbers.
        lowest, highest: bounds of the numbers.
        rank: from 0.
    """
    found = (ctypes.c_int64 * 3)()
    _native().find_rank(bits_K.data_ptr(), num, lowest, highest, rank, found)
    threshold, below, ties = found
    return threshold, below, ties
