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
from itertools import accumulate
from typing import TYPE_CHECKING

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
    alike: dict[torch.device, list[int]] = {}
    for i, group in enumerate(groups):
        devices = {scores.device for scores in group}
        is_whole = all(scores.shards is None for scores in group)
        if len(devices) == 1 and is_whole and all(map(has_triton, devices)) and 0 < size_of(group) < _LARGEST_GROUP:
            alike.setdefault(devices.pop(), []).append(i)
    for indices in alike.values():
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
class _Sampled:
    """A group's sample.

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


def _sampled(group: Sequence[Scores], wanted: int, rule: Rule) -> _Sampled:
    size = size_of(group)
    if size <= wanted:
        return _Sampled(size=size, count=size, margin=0, room=0)
    # How many zeros come before the rank is estimated too, where the smallest stay; half is the worst that can be.
    masked = 0.5 if rule.smallest else rule.mask_ratio
    deviation = math.sqrt(wanted * masked * (1 - masked)) * (2 if rule.smallest else 1)
    margin = math.ceil(_DEVIATIONS * deviation) + len(group) + 1  # each tensor's number is rounded
    places = 2 * margin + 2
    room = math.ceil(size * (places + 8 * math.sqrt(places)) / wanted)  # so many places hold a random number of scores
    return _Sampled(size=size, count=wanted, margin=margin, room=min(room, size))


def _find(groups: Sequence[Sequence[Scores]], rule: Rule) -> Tensor:
    """Return whether a group's rank lies between its bounds, and what `Rule.selection` takes after the size.

    int64 of shape [G, F].

    It does not wait for the device.
    """
    from gmt.masking.triton_tables import count_between, split

    device, wanted = groups[0][0].device, max(_SAMPLES // len(groups), _FEWEST_SAMPLES)
    samples = [_sampled(group, wanted, rule) for group in groups]
    low_G, high_G = _bounds(groups, samples, rule, device)
    ends = list(accumulate(each.room for each in samples))
    rooms = list(zip([0, *ends], ends, strict=False))
    room = torch.empty(ends[-1], dtype=torch.int32, device=device)
    counts_GF = torch.zeros(len(groups), 6, dtype=torch.int64, device=device)
    for pieces in _launches(groups, lambda i, place, size: (i, *rooms[i])):
        split(pieces, low_G, high_G, counts_GF, room)
    below_G, at_low_G, between_G, at_high_G, zeros_G, nonfinite_G = counts_GF.T.contiguous()
    if rule.rank_zeros:
        zeros_G = torch.zeros_like(zeros_G)
    rank_G = rule.ranks([each.size for each in samples], zeros_G)
    first_G = below_G + at_low_G
    last_G = first_G + between_G
    left_G, prefix_G = (rank_G - first_G).clamp(min=0), torch.zeros_like(rank_G)
    for shift, width in fields([torch.float32]):
        counts_GK = count_between(room, rooms, between_G, prefix_G, shift, width)
        bin_G, left_G, ties_G = find_flat(counts_GK, left_G)
        prefix_G = prefix_G << width | bin_G
    is_low_G, is_high_G = rank_G < first_G, rank_G >= last_G
    has_room_G = between_G <= to_device([each.room for each in samples], device)
    is_found_G = (rank_G >= below_G) & (rank_G < last_G + at_high_G) & (is_low_G | is_high_G | has_room_G)

    def one_of(at_low: Tensor, between: Tensor, at_high: Tensor) -> Tensor:
        return torch.where(is_low_G, at_low, torch.where(is_high_G, at_high, between))

    threshold_G = one_of(low_G, prefix_G, high_G)
    found_below_G = one_of(below_G, rank_G - left_G, last_G)
    ties_G = one_of(at_low_G, ties_G, at_high_G)
    return torch.stack([is_found_G, threshold_G, found_below_G, ties_G, zeros_G, nonfinite_G], 1)


def _bounds(
    groups: Sequence[Sequence[Scores]], samples: Sequence[_Sampled], rule: Rule, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the lower and the higher bound of each group's threshold, in bits, int64 of shape [G]."""
    from gmt.masking.triton_tables import sample

    width = max(each.count for each in samples)
    sample_GS = torch.full((len(groups), width), LARGEST_BITS, dtype=torch.int32, device=device)

    def slots(i: int, place: int, size: int) -> tuple[int, int]:
        first, end = (samples[i].count * at // samples[i].size for at in (place, place + size))
        return i * width + first, end - first

    for pieces in _launches(groups, slots):
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


def _launches(
    groups: Sequence[Sequence[Scores]], numbers: Callable[[int, int, int], tuple[int, ...]]
) -> Iterator[list[Piece]]:
    """Give the chunks of all groups, those together that one launch goes over.

    Args:
        groups: their scores.
        numbers: returns those of a chunk, from its group, the entries of the group before it, and its own.
    """
    from gmt.masking.triton_tables import Piece, each_kind

    pieces: list[Piece] = []
    num_computed = 0
    for i, group in enumerate(groups):
        place = 0
        for scores in group:
            for chunk_N, draw, size in _chunks(scores):
                pieces.append(Piece(scores=chunk_N, draw=draw, size=size, numbers=numbers(i, place, size)))
                place += size
                num_computed += 0 if scores.is_view or draw else size
                if num_computed > _COMPUTED_AT_ONCE:
                    yield from each_kind(pieces)
                    pieces, num_computed = [], 0
    yield from each_kind(pieces)


def _chunks(scores: Scores) -> Iterator[tuple[Tensor, Draw | None, int]]:
    if scores.draw is not None:
        yield _nothing(scores.device), scores.draw, scores.num_entries
        return
    for chunk_N in scores.chunks():
        yield chunk_N, None, len(chunk_N)


@functools.cache
def _nothing(device: torch.device) -> Tensor:
    return torch.empty(0, dtype=torch.int32, device=device)
