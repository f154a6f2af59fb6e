"""Which entries of a parameter are measured: a fixed draw without replacement, the same on one process and on many.

A stride would not do: one that shares a factor with the length of a row never sees some of the columns.

Shape suffixes: N entries of a parameter that lie here, flattened; S drawn entries.
"""

import functools

import torch
from torch import Tensor

from gmt.masking.random_bits import keys
from gmt.masking.sharding import first_index, local

Index = Tensor | None  # of entries of a flat tensor; None: all of them
_FEWEST_BITS = 6  # a permutation of fewer is not random enough: of 3 entries one would be drawn twice as often
_ROUNDS = ((0, 0x7FEB352D), (1, 0x846CA68B), (0, 0x9E3779B1))  # which key, and an odd factor


def sample_index(parameter: Tensor, name: str, share: float) -> Index:
    """Return the indices, among the entries of `parameter` that lie here, that are measured.

    A parameter that is cut by rows has the same measured entries on any number of processes. One that is cut in
    another way has a draw of its own in each part.

    Args:
        parameter: whole or sharded.
        name: decides the draw.
        share: of the entries to draw, in (0, 1]; one entry at least is drawn.
    """
    if share >= 1:
        return None
    start, num_here = first_index(parameter), local(parameter).numel()
    if start is None:
        return drawn(num_here, share, name).to(parameter.device)
    index_S = drawn(parameter.numel(), share, name)
    return (index_S[(index_S >= start) & (index_S < start + num_here)] - start).to(parameter.device)


def pick(x_N: Tensor, index: Index) -> Tensor:
    """Return a copy of the entries at an index."""
    return x_N.clone() if index is None else x_N.index_select(0, index)  # x_N[index] takes up to three times as long


@functools.lru_cache(maxsize=512)  # the runs of a process train models of the same names and sizes
def drawn(num_entries: int, share: float, name: str) -> Tensor:
    """Return distinct indices below `num_entries`, int64 of shape [S], ascending, to be read; S is 1 at least.

    A keyed permutation of all indices is computed for the first S of them only: that of a power of two, walked on until
    it falls below `num_entries`.
    """
    num_drawn = min(max(round(num_entries * share), 1), num_entries)
    num_bits, key = max((num_entries - 1).bit_length(), _FEWEST_BITS), keys(0, 0, f"facts/{name}")
    index_S = _permuted(torch.arange(num_drawn), num_bits, key)
    while (outside := index_S >= num_entries).any():
        index_S[outside] = _permuted(index_S[outside], num_bits, key)
    return index_S.sort().values


def _permuted(index_S: Tensor, num_bits: int, key: tuple[int, int]) -> Tensor:
    """Return a permutation of the integers of `num_bits` bits, at `index_S`: each step can be undone."""
    mask, shift = (1 << num_bits) - 1, num_bits // 2 + 1
    for which, factor in _ROUNDS:
        index_S = (index_S ^ (key[which] & mask)) * factor & mask
        index_S = index_S ^ (index_S >> shift)
    return index_S
