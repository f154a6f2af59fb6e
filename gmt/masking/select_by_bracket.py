"""Selects on a GPU in one read of the scores: a sample bounds each threshold from both sides, and only the scores
between the bounds are counted further.

The bounds are the scores of the sample that lie some standard deviations of the binomial distribution below and above
the threshold's rank. One read of all scores counts those below, at and between the bounds, and writes out those between
them, a few per cent, which are then counted by bit fields. The counts show whether the threshold lies between its
bounds, so that the result is exact for every sample. Groups whose threshold lies outside of its bounds, and tensors in
shards, are left to select_by_fields.py. Scores that are not stored are computed twice: for the sample, and for the
counts.

All kernels of a batch of groups are launched before the host waits.

Shape suffixes: G groups, each with one threshold; S samples; F numbers of a group.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gmt.masking.bins import bins_on_device
from gmt.masking.counting import fields
from gmt.masking.native import has_triton
from gmt.masking.rule import LARGEST_BITS, Draw, Rule, Scores, Selection, size_of, to_device

if TYPE_CHECKING:
    from gmt.masking.triton_bracket import Buffers
    from gmt.masking.triton_tables import Pieces

_ENTRIES_AT_ONCE = 1 << 31  # entries in a batch of groups, which bounds the buffers for scores between bounds
_GROUPS_AT_ONCE = 1 << 11  # groups in a batch, which bounds the memory of samples
_COMPUTED_AT_ONCE = 1 << 26  # computed scores in a launch, which are stored until it
_SAMPLES = 1 << 20  # the fewest samples of a batch
_MOST_SAMPLES = 1 << 23  # the most samples of a batch, since they are sorted
_ENTRIES_OF_A_SAMPLE = 1 << 8  # entries per sample, within these limits: a smaller sample leaves more scores to count
_FEWEST_SAMPLES = 1 << 12  # the fewest samples of a group; a smaller group is read whole
_DEVIATIONS = 6
_LARGEST_GROUP = 1 << 38  # entries, so that the product of entries and samples is below 2^63


def select_by_bracket(
    groups: Sequence[Sequence[Scores]], rule: Rule, *, zero: Sequence[Sequence[Tensor]] | None = None
) -> dict[int, Selection]:
    """Return the selections, by index, of groups on one GPU without shards, if the threshold lies between its bounds.

    Args:
        groups: for each threshold, the scores that share it.
        rule: the rule of the selection.
        zero: for each tensor of scores, the tensor in which masked entries are zeroed; see `select`.
    """
    sizes = [size_of(group) for group in groups]
    batches = list(_batches(groups, sizes))
    launched = [_thresholds([groups[i] for i in batch], [sizes[i] for i in batch], rule) for batch in batches]
    indices = [i for batch in batches for i in batch]
    is_zeroed = zero is not None and len({thresholds_GF.device for thresholds_GF in launched}) == 1
    if zero is not None and is_zeroed:
        thresholds_GF = torch.cat(launched)
        _zero_if_proven([groups[i] for i in indices], [zero[i] for i in indices], thresholds_GF, rule)
        launched = [thresholds_GF]
    rows = [row for thresholds_GF in launched for row in thresholds_GF.tolist()]  # the first wait for the device
    is_zeroed = is_zeroed and all(is_proven and not nonfinite for is_proven, *_, nonfinite in rows)
    return {
        i: rule.selection(sizes[i], *numbers, is_applied=is_zeroed)
        for i, (is_proven, *numbers) in zip(indices, rows, strict=True)
        if is_proven
    }


def _zero_if_proven(
    groups: Sequence[Sequence[Scores]], zero: Sequence[Sequence[Tensor]], thresholds_GF: Tensor, rule: Rule
) -> None:
    """Zero the masked entries, before the host waits; zero none if a threshold is unproven or a score not finite."""
    from gmt.masking.triton_entries import Bounds, zero_outside

    is_proven_G, threshold_G, *_, nonfinite_G = thresholds_GF.unbind(1)
    lowest_G, highest_G = rule.bounds(threshold_G)
    bounds = Bounds(
        lowest_G=lowest_G.contiguous(),
        highest_G=highest_G.contiguous(),
        hold=((is_proven_G != 0) & (nonfinite_G == 0)).all()[None].long(),
    )
    tensors = [
        (x_N, scores.draw)
        for group, xs in zip(groups, zero, strict=True)
        for scores, x_N in zip(group, xs, strict=True)
    ]
    zero_outside(tensors, [i for i, group in enumerate(groups) for _ in group], bounds)


def _batches(groups: Sequence[Sequence[Scores]], sizes: Sequence[int]) -> Iterator[list[int]]:
    by_device: dict[torch.device, list[int]] = {}
    for i, (group, num) in enumerate(zip(groups, sizes, strict=True)):
        devices = {scores.device for scores in group}
        is_whole = all(scores.shards is None for scores in group)
        if len(devices) == 1 and is_whole and all(map(has_triton, devices)) and 0 < num < _LARGEST_GROUP:
            by_device.setdefault(devices.pop(), []).append(i)
    for indices in by_device.values():
        batch: list[int] = []
        size = 0
        for i in indices:
            if batch and (size + sizes[i] > _ENTRIES_AT_ONCE or len(batch) == _GROUPS_AT_ONCE):
                yield batch
                batch, size = [], 0
            batch.append(i)
            size += sizes[i]
        yield batch


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """The sizes of a group's sample and buffer.

    Args:
        size: the number of entries of the group.
        count: the number of samples; `size` if the whole group is read.
        margin: the number of places in the sorted sample between the rank and each bound.
        capacity: the number of entries in the group's buffer for scores between the bounds.
    """

    size: int
    count: int
    margin: int
    capacity: int


def _sample_of(size: int, num_tensors: int, most: int, rule: Rule) -> _Sample:
    if size <= most:
        return _Sample(size=size, count=size, margin=0, capacity=0)
    margin = rule.margin(most, _DEVIATIONS) + num_tensors  # each tensor's number of samples is rounded
    places = 2 * margin + 2
    # The number of scores between two places of the sample is random.
    capacity = math.ceil(size * (places + 8 * math.sqrt(places)) / most)
    return _Sample(size=size, count=most, margin=margin, capacity=min(capacity, size))


def _samples(groups: Sequence[Sequence[Scores]], sizes: Sequence[int], rule: Rule) -> list[_Sample]:
    num = min(max(sum(sizes) // _ENTRIES_OF_A_SAMPLE, _SAMPLES), max(_MOST_SAMPLES, _SAMPLES))
    most = max(num // len(groups), _FEWEST_SAMPLES)
    return [_sample_of(size, len(group), most, rule) for size, group in zip(sizes, groups, strict=True)]


class _Launches:
    """Iterates over the pieces of all groups, in lists for one launch each.

    `at` of a piece is its group, and the number of the group's entries before the piece. Scores that are not stored are
    computed again at each iteration, so that memory never holds them all.
    """

    def __init__(self, groups: Sequence[Sequence[Scores]]):
        self._groups = groups
        self.device = groups[0][0].device
        computes_none = all(scores.is_view or scores.draw for group in groups for scores in group)
        self._stored = list(self._pieces()) if computes_none else None

    def __iter__(self) -> Iterator[Pieces]:
        return self._pieces() if self._stored is None else iter(self._stored)

    def _pieces(self) -> Iterator[Pieces]:
        from gmt.masking.triton_tables import Piece, by_kind

        pieces: list[Piece] = []
        num_computed = 0
        for i, group in enumerate(self._groups):
            before = 0
            for scores in group:
                for chunk_N, draw, size in _chunks(scores):
                    pieces.append(Piece(scores=chunk_N, draw=draw, size=size, at=(i, before)))
                    before += size
                    num_computed += 0 if scores.is_view or draw else size
                    if num_computed > _COMPUTED_AT_ONCE:
                        yield from by_kind(pieces)
                        pieces, num_computed = [], 0
        yield from by_kind(pieces)


def _thresholds(groups: Sequence[Sequence[Scores]], sizes: Sequence[int], rule: Rule) -> Tensor:
    """Return the threshold of each group, without waiting for the device.

    Returns:
        int64 of shape [G, F]: 1 if the counts prove the threshold, else 0; then the arguments of `Rule.selection` after
        the size.
    """
    from gmt.masking.triton_bracket import buffers_of, count_between

    samples = _samples(groups, sizes, rule)
    launches = _Launches(groups)
    low_G, high_G = _bounds(launches, samples, rule)
    buffers = buffers_of([sample.capacity for sample in samples], launches.device)
    counts = _counts(launches, buffers, low_G, high_G, rule)
    rank_G = rule.ranks(sizes, counts.zeros_G)
    first_G = counts.below_G + counts.at_low_G  # the rank of the first score between the bounds
    end_G = first_G + counts.between_G
    left_G, prefix_G = (rank_G - first_G).clamp(min=0), torch.zeros_like(rank_G)
    for shift, width in fields(scores.dtype for group in groups for scores in group):
        counts_GK = count_between(buffers, counts.between_G, prefix_G, shift, width)
        bin_G, left_G, ties_G = bins_on_device(counts_GK, left_G)
        prefix_G = prefix_G << width | bin_G
    is_low_G, is_high_G = rank_G < first_G, rank_G >= end_G
    fits_G = counts.between_G <= buffers.end_G - buffers.start_G
    is_proven_G = (rank_G >= counts.below_G) & (rank_G < end_G + counts.at_high_G) & (is_low_G | is_high_G | fits_G)

    def choose(at_low_G: Tensor, between_G: Tensor, at_high_G: Tensor) -> Tensor:
        return torch.where(is_low_G, at_low_G, torch.where(is_high_G, at_high_G, between_G))

    threshold_G = choose(low_G, prefix_G << shift, high_G)
    below_G = choose(counts.below_G, rank_G - left_G, end_G)
    ties_G = choose(counts.at_low_G, ties_G, counts.at_high_G)
    return torch.stack([is_proven_G, threshold_G, below_G, ties_G, counts.zeros_G, counts.nonfinite_G], 1)


def _bounds(launches: _Launches, samples: Sequence[_Sample], rule: Rule) -> tuple[Tensor, Tensor]:
    """Return the lower and the upper bound of each group's threshold, in bits, int64 of shape [G]."""
    from gmt.masking.triton_bracket import write_samples

    device, width = launches.device, max(sample.count for sample in samples)
    sample_GS = torch.full((len(samples), width), LARGEST_BITS, dtype=torch.int32, device=device)
    for pieces in launches:
        first_slots, counts = [], []
        for piece in pieces:
            group, before = piece.at
            first, end = (samples[group].count * at // samples[group].size for at in (before, before + piece.size))
            first_slots.append(group * width + first)
            counts.append(end - first)
        write_samples(pieces, first_slots, counts, sample_GS)
    numbers = [getattr(sample, name) for name in ("size", "count", "margin") for sample in samples]
    size_G, count_G, margin_G = to_device(numbers, device).view(3, -1)
    zeros_G = (sample_GS == 0).sum(1) * size_G // count_G if rule.ranks_from_zeros else torch.zeros_like(size_G)
    rank_G = rule.ranks([sample.size for sample in samples], zeros_G) * count_G // size_G
    sorted_GS = sample_GS.sort(1).values
    low_G, high_G = rank_G - margin_G, rank_G + margin_G
    at_low_G, at_high_G = (
        sorted_GS.gather(1, place_G.clamp(0, width - 1)[:, None])[:, 0].long() for place_G in (low_G, high_G)
    )
    return torch.where(low_G < 0, 0, at_low_G), torch.where(high_G >= count_G, LARGEST_BITS, at_high_G)


class _Counts(NamedTuple):
    """The numbers of each group's magnitudes below, at and between the bounds, int64 of shape [G].

    `zeros_G` counts the zeros that are not ranked, if the selection needs their number; `nonfinite_G` is 0 if all
    magnitudes are finite.
    """

    below_G: Tensor
    at_low_G: Tensor
    between_G: Tensor
    at_high_G: Tensor
    zeros_G: Tensor
    nonfinite_G: Tensor


def _counts(launches: _Launches, buffers: Buffers, low_G: Tensor, high_G: Tensor, rule: Rule) -> _Counts:
    """Count magnitudes below, at and between the bounds, and write those between them into each group's buffer."""
    from gmt.masking.triton_bracket import split

    counts_GF = torch.zeros(len(low_G), len(_Counts._fields), dtype=torch.int64, device=low_G.device)
    for pieces in launches:
        groups = [piece.at[0] for piece in pieces]
        split(pieces, groups, low_G, high_G, counts_GF, buffers, needs_zeros=rule.ranks_from_zeros)
    counts = _Counts(*counts_GF.T.contiguous())
    if rule.ranks_from_zeros:
        return counts
    # Zeros below the lower bound are below the threshold, so their number is not needed.
    are_at_low_G = (low_G == 0) & (not rule.rank_zeros)
    return counts._replace(zeros_G=torch.where(are_at_low_G, counts.at_low_G, 0))


def _chunks(scores: Scores) -> Iterator[tuple[Tensor, Draw | None, int]]:
    if scores.draw is not None:
        yield _no_scores(scores.device), scores.draw, scores.num_entries
        return
    for chunk_N in scores.chunks():
        yield chunk_N, None, chunk_N.numel()


@functools.cache
def _no_scores(device: torch.device) -> Tensor:
    return torch.empty(0, dtype=torch.int32, device=device)
