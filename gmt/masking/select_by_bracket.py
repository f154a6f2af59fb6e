"""The selection on a GPU in one read of the scores: a sample bounds each threshold from both sides, and only the scores
between the bounds are counted further.

A threshold of n scores is bounded by the scores of the sample that lie some standard deviations of the binomial
distribution below and above its rank. One read of all scores counts those below, at and between the bounds, and writes
out those between, some per cent; they are counted by bit fields. That a rank lies between its bounds is checked against
the counts, so that the result is exact whatever the sample is. Groups in which it does not are left to
select_by_fields.py, as are tensors in shards. Computed scores are computed twice: for the sample, and for the counts.

Shape suffixes: G groups, each with one threshold; S samples; F figures.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gmt.masking.bins import find_flat
from gmt.masking.counting import fields
from gmt.masking.native import has_triton
from gmt.masking.rule import LARGEST_BITS, Draw, Rule, Scores, Selection, size_of, to_device

if TYPE_CHECKING:
    from gmt.masking.triton_tables import Piece

_ENTRIES_AT_ONCE = 1 << 28  # of a batch of groups, which bounds the room for scores between bounds
_GROUPS_AT_ONCE = 1 << 11  # of a batch, which bounds the samples
_COMPUTED_AT_ONCE = 1 << 26  # of a launch, where scores are computed and held until then
_SAMPLES = 1 << 20  # of a batch of few groups
_FEWEST_SAMPLES = 1 << 12  # of a group, which is looked at whole if it is smaller
_DEVIATIONS = 6
_LARGEST_GROUP = 1 << 32  # larger ones were not tried


def select_by_bracket(groups: Sequence[Sequence[Scores]], rule: Rule) -> dict[int, Selection]:
    """Return selections of groups that lie whole on one GPU, by index; a group that its sample misled is missing."""
    launched = [(batch, _find([groups[i] for i in batch], rule)) for batch in _batches(groups)]
    done: dict[int, Selection] = {}
    for batch, found_GF in launched:  # the first wait for the device
        for i, (is_found, *found) in zip(batch, found_GF.tolist(), strict=True):
            if is_found:
                done[i] = rule.selection(size_of(groups[i]), *found)
    return done


def _batches(groups: Sequence[Sequence[Scores]]) -> Iterator[list[int]]:
    by_device: dict[torch.device, list[int]] = {}
    for i, group in enumerate(groups):
        devices = {scores.device for scores in group}
        is_whole = all(scores.shards is None for scores in group)
        if len(devices) == 1 and is_whole and all(map(has_triton, devices)) and 0 < size_of(group) < _LARGEST_GROUP:
            by_device.setdefault(devices.pop(), []).append(i)
    for indices in by_device.values():
        batch: list[int] = []
        size = 0
        for i in indices:
            if batch and (size + size_of(groups[i]) > _ENTRIES_AT_ONCE or len(batch) == _GROUPS_AT_ONCE):
                yield batch
                batch, size = [], 0
            batch.append(i)
            size += size_of(groups[i])
        yield batch


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """How a group is sampled.

    Args:
        size: entries of the group.
        count: samples; as many as entries where the whole group is read.
        margin: places in the sorted sample between the rank and each bound.
        room: entries that may lie between the bounds.
    """

    size: int
    count: int
    margin: int
    room: int


def _sample_of(group: Sequence[Scores], most: int, rule: Rule) -> _Sample:
    size = size_of(group)
    if size <= most:
        return _Sample(size=size, count=size, margin=0, room=0)
    margin = rule.margin(most, _DEVIATIONS) + len(group)  # each tensor's number of samples is rounded
    places = 2 * margin + 2
    room = math.ceil(size * (places + 8 * math.sqrt(places)) / most)  # how many scores lie between places is random
    return _Sample(size=size, count=most, margin=margin, room=min(room, size))


def _find(groups: Sequence[Sequence[Scores]], rule: Rule) -> Tensor:
    """Find the threshold of each group, without waiting for the device.

    Returns:
        int64 of shape [G, F]: whether the rank lies between the bounds, and the arguments of `Rule.selection` but the
        size.
    """
    from gmt.masking.triton_tables import count_between

    most = max(_SAMPLES // len(groups), _FEWEST_SAMPLES)
    samples = [_sample_of(group, most, rule) for group in groups]
    low_G, high_G = _bounds(groups, samples, rule)
    rooms = list(pairwise(accumulate((sample.room for sample in samples), initial=0)))
    counts, bits = _counts(groups, rooms, low_G, high_G)
    zeros_G = torch.zeros_like(counts.zeros_G) if rule.rank_zeros else counts.zeros_G
    rank_G = rule.ranks([sample.size for sample in samples], zeros_G)
    first_G = counts.below_G + counts.at_low_G  # rank of the first score between the bounds
    end_G = first_G + counts.between_G
    left_G, prefix_G = (rank_G - first_G).clamp(min=0), torch.zeros_like(rank_G)
    for shift, width in fields(scores.dtype for group in groups for scores in group):
        counts_GK = count_between(bits, rooms, counts.between_G, prefix_G, shift, width)
        bin_G, left_G, ties_G = find_flat(counts_GK, left_G)
        prefix_G = prefix_G << width | bin_G
    is_low_G, is_high_G = rank_G < first_G, rank_G >= end_G
    has_room_G = counts.between_G <= to_device([sample.room for sample in samples], rank_G.device)
    is_found_G = (rank_G >= counts.below_G) & (rank_G < end_G + counts.at_high_G) & (is_low_G | is_high_G | has_room_G)

    def choose(at_low_G: Tensor, between_G: Tensor, at_high_G: Tensor) -> Tensor:
        return torch.where(is_low_G, at_low_G, torch.where(is_high_G, at_high_G, between_G))

    threshold_G = choose(low_G, prefix_G << shift, high_G)
    below_G = choose(counts.below_G, rank_G - left_G, end_G)
    ties_G = choose(counts.at_low_G, ties_G, counts.at_high_G)
    return torch.stack([is_found_G, threshold_G, below_G, ties_G, zeros_G, counts.nonfinite_G], 1)


def _bounds(groups: Sequence[Sequence[Scores]], samples: Sequence[_Sample], rule: Rule) -> tuple[Tensor, Tensor]:
    """Return the lower and the higher bound of each group's threshold, in bits, int64 of shape [G]."""
    from gmt.masking.triton_tables import sample

    device, width = groups[0][0].device, max(each.count for each in samples)
    sample_GS = torch.full((len(groups), width), LARGEST_BITS, dtype=torch.int32, device=device)

    def places(i: int, before: int, size: int) -> tuple[int, int]:
        first, end = (samples[i].count * at // samples[i].size for at in (before, before + size))
        return i * width + first, end - first

    for pieces in _by_launch(groups, places):
        sample(pieces, sample_GS)
    size_G, count_G, margin_G = (
        to_device([getattr(each, name) for each in samples], device) for name in ("size", "count", "margin")
    )
    zeros_G = torch.zeros_like(size_G) if rule.rank_zeros else (sample_GS == 0).sum(1) * size_G // count_G
    rank_G = rule.ranks([each.size for each in samples], zeros_G) * count_G // size_G
    sorted_GS = sample_GS.sort(1).values.long()
    low_G, high_G = rank_G - margin_G, rank_G + margin_G
    at_low_G, at_high_G = (
        sorted_GS.gather(1, place_G.clamp(0, width - 1)[:, None])[:, 0] for place_G in (low_G, high_G)
    )
    return torch.where(low_G < 0, 0, at_low_G), torch.where(high_G >= count_G, LARGEST_BITS, at_high_G)


class _Counts(NamedTuple):
    """How many magnitudes of each group lie where, int64 of shape [G]."""

    below_G: Tensor
    at_low_G: Tensor
    between_G: Tensor
    at_high_G: Tensor
    zeros_G: Tensor
    nonfinite_G: Tensor


def _counts(
    groups: Sequence[Sequence[Scores]], rooms: Sequence[tuple[int, int]], low_G: Tensor, high_G: Tensor
) -> tuple[_Counts, Tensor]:
    """Count below, at and between the bounds, and return the bits between them too, int32, each group's in its room."""
    from gmt.masking.triton_tables import split

    bits = torch.empty(rooms[-1][1], dtype=torch.int32, device=low_G.device)
    counts_GF = torch.zeros(len(groups), len(_Counts._fields), dtype=torch.int64, device=low_G.device)
    for pieces in _by_launch(groups, lambda i, before, size: (i, *rooms[i])):
        split(pieces, low_G, high_G, counts_GF, bits)
    return _Counts(*counts_GF.T.contiguous()), bits


def _by_launch(
    groups: Sequence[Sequence[Scores]], numbers: Callable[[int, int, int], tuple[int, ...]]
) -> Iterator[list[Piece]]:
    """Give the chunks of all groups, those together that one launch goes over.

    Args:
        groups: their scores.
        numbers: returns a chunk's numbers for the kernel, from its group, the entries of the group before it, and its
            size.
    """
    from gmt.masking.triton_tables import Piece, by_kind

    pieces: list[Piece] = []
    num_computed = 0
    for i, group in enumerate(groups):
        before = 0
        for scores in group:
            for chunk_N, draw, size in _chunks(scores):
                pieces.append(Piece(scores=chunk_N, draw=draw, size=size, numbers=numbers(i, before, size)))
                before += size
                num_computed += 0 if scores.is_view or draw else size
                if num_computed > _COMPUTED_AT_ONCE:
                    yield from by_kind(pieces)
                    pieces, num_computed = [], 0
    yield from by_kind(pieces)


def _chunks(scores: Scores) -> Iterator[tuple[Tensor, Draw | None, int]]:
    if scores.draw is not None:
        yield _no_scores(scores.device), scores.draw, scores.num_entries
        return
    for chunk_N in scores.chunks():
        yield chunk_N, None, len(chunk_N)


@functools.cache
def _no_scores(device: torch.device) -> Tensor:
    return torch.empty(0, dtype=torch.int32, device=device)
