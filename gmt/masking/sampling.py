"""Samples the entries of a parameter that are measured: a fixed draw without replacement, on any number of processes.

Every n-th entry would be a worse sample: if n and the length of a row have a common factor, some columns are left out.

Shape suffixes: N entries of a parameter on this process, flattened; S sampled entries.
"""

import functools

import torch
from torch import Tensor

from gmt.masking.random_bits import keys
from gmt.masking.sharding import first_index, local

Index = Tensor | None  # indices of entries of a flat tensor; None: all entries
_FEWEST_BITS = 6  # a permutation of fewer bits is not random enough: of 3 entries one would be drawn twice as often
_ROUNDS = ((0, 0x7FEB352D), (1, 0x846CA68B), (0, 0x9E3779B1))  # the number of a key, and an odd factor


def sample_index(parameter: Tensor, name: str, share: float) -> Index:
    """Return the indices of the measured entries among this process's entries of a parameter.

    If a parameter is sharded by rows, the measured entries are the same on any number of processes. If it is sharded in
    another way, each part is sampled separately.

    Args:
        parameter: a parameter, sharded or not.
        name: the parameter's name, which decides the draw.
        share: the fraction of the entries to draw, in (0, 1]; at least one entry is drawn.
    """
    if share >= 1:
        return None
    start, num_local = first_index(parameter), local(parameter).numel()
    if start is None:
        return drawn(num_local, share, name).to(parameter.device)
    index_S = drawn(parameter.numel(), share, name)
    return (index_S[(index_S >= start) & (index_S < start + num_local)] - start).to(parameter.device)


def pick(x_N: Tensor, index: Index) -> Tensor:
    """Return a copy of the entries at an index."""
    return x_N.clone() if index is None else x_N.index_select(0, index)  # x_N[index] takes up to three times as long


@functools.lru_cache(maxsize=512)  # the runs of a process often train models with the same names and sizes
def drawn(num_entries: int, share: float, name: str) -> Tensor:
    """Return distinct indices below `num_entries`, int64 of shape [S], ascending; S is at least 1.

    The result is cached, so it must not be changed. It holds the images of 0, ..., S - 1 under a keyed permutation of
    the integers below the next power of two, which is applied again to each image that is not below `num_entries`.
    """
    num_drawn = min(max(round(num_entries * share), 1), num_entries)
    num_bits, key = max((num_entries - 1).bit_length(), _FEWEST_BITS), keys(0, 0, f"facts/{name}")
    index_S = _permuted(torch.arange(num_drawn), num_bits, key)
    while (outside := index_S >= num_entries).any():
        index_S[outside] = _permuted(index_S[outside], num_bits, key)
    return index_S.sort().values


def _permuted(index_S: Tensor, num_bits: int, key: tuple[int, int]) -> Tensor:
    """Return the images of integers under a permutation of those with `num_bits` bits; every step is invertible."""
    mask, shift = (1 << num_bits) - 1, num_bits // 2 + 1
    for number, factor in _ROUNDS:
        index_S = (index_S ^ (key[number] & mask)) * factor & mask
        index_S = index_S ^ (index_S >> shift)
    return index_S
