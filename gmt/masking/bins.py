"""Adds up histograms over devices and shards, and finds the bin that contains a rank.

Counts add up over the tensors of a group and over the shards of a tensor. So one threshold over many tensors costs no
more than one threshold for each tensor, and processes with shards agree on a threshold by exchanging counts.

Shape suffixes: G groups, each with one threshold; K bins; B blocks of b bins.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from gmt.masking.counting import Chunks
from gmt.masking.rule import Scores, Shards

_CPU = torch.device("cpu")
Place = tuple[torch.device, Shards | None]
"""The device of a tensor, and the processes that hold its shards; None if the tensor is not sharded."""


def joint_counts(groups: Sequence[Sequence[Scores]], count: Callable[[Sequence[Chunks], Place], Tensor]) -> Tensor:
    """Return the counts of all groups, summed over devices and shards.

    A tensor without shards is the same on every process, and is counted once.

    Args:
        groups: for each threshold, the scores that share it.
        count: returns the counts of each group's chunks at one place; its result is changed in place.
    """
    counts_by_place = []
    for place in dict.fromkeys((s.device, s.shards) for group in groups for s in group) or [(_CPU, None)]:
        parts = [_chunks([s for s in group if (s.device, s.shards) == place]) for group in groups]
        counts = count(parts, place)
        if place[1] is not None:
            place[1].sum_(counts)
        counts_by_place.append(counts)
    first, *others = counts_by_place
    return sum((counts.to(first.device) for counts in others), start=first)


def _chunks(group: Sequence[Scores]) -> Chunks:
    def chunks() -> Iterator[Tensor]:
        for scores in group:
            yield from scores.chunks()

    return chunks


def bins_of_ranks(counts_GK: Tensor, ranks: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Return the bin that contains each group's rank, the rank inside that bin, and the bin's count.

    The block of 256 bins is found first, since running sums over all bins would take longer than the counting.
    """
    groups_G = torch.arange(len(ranks), device=counts_GK.device)
    blocks_GBb = counts_GK.reshape(len(ranks), -1, 256)
    rank_G = torch.tensor(ranks, device=counts_GK.device)
    block_G, rank_G, _ = bins_on_device(blocks_GBb.sum(2), rank_G)
    bin_G, rank_G, count_G = bins_on_device(blocks_GBb[groups_G, block_G], rank_G)
    return (block_G * 256 + bin_G).tolist(), rank_G.tolist(), count_G.tolist()


def bins_on_device(counts_GK: Tensor, rank_G: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the results of `bins_of_ranks` as tensors, without waiting for their device."""
    running_GK = counts_GK.cumsum(1)
    bin_G1 = torch.searchsorted(running_GK, rank_G[:, None], right=True).clamp_(max=counts_GK.shape[1] - 1)
    count_G = counts_GK.gather(1, bin_G1)[:, 0]
    return bin_G1[:, 0], rank_G - (running_GK.gather(1, bin_G1)[:, 0] - count_G), count_G
