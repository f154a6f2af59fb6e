"""Selects on a GPU with Triton: fields of 8 bits are counted one after the other, without waiting for the device.

It handles the groups that select_by_bracket.py leaves: those with tensors in shards, with very many entries, or with a
threshold outside of the bounds of its sample.

Shape suffixes: G groups, each with one threshold; K bins; F numbers of a group.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from gmt.masking.bins import Place, bins_on_device, joint_counts
from gmt.masking.counting import Chunks, fields
from gmt.masking.native import has_triton
from gmt.masking.rule import LARGEST_BITS, Rule, Scores, Selection, size_of

_BITS_OF_INF = 0x7F800000


def select_by_fields(groups: Sequence[Sequence[Scores]], rule: Rule) -> dict[int, Selection]:
    """Return the selections of the groups that lie on one GPU, by index."""
    launched = [(indices, find_by_fields([groups[i] for i in indices], rule)) for indices in _for_triton(groups)]
    selections: dict[int, Selection] = {}
    for indices, thresholds_GF in launched:
        rows = thresholds_GF.tolist()  # the first wait for the device
        selections |= {i: rule.selection(size_of(groups[i]), *row) for i, row in zip(indices, rows, strict=True)}
    return selections


def _for_triton(groups: Sequence[Sequence[Scores]]) -> list[list[int]]:
    """Return the indices of the groups that Triton counts, in one list for each device and set of bit fields.

    Empty groups are left out, since they have no threshold, and groups over several devices, whose counts would need a
    common device.
    """
    alike: dict[object, list[int]] = {}
    for i, group in enumerate(groups):
        devices = {scores.device for scores in group}
        if len(devices) == 1 and all(map(has_triton, devices)) and size_of(group):
            alike.setdefault((devices.pop(), fields(scores.dtype for scores in group)), []).append(i)
    return list(alike.values())


def find_by_fields(groups: Sequence[Sequence[Scores]], rule: Rule) -> Tensor:
    """Return the arguments of `Rule.selection` after the size, int64 of shape [G, F], without waiting."""
    prefix_G = torch.zeros(len(groups), dtype=torch.int64, device=groups[0][0].device)
    for shift, width in fields(scores.dtype for group in groups for scores in group):
        is_first = shift + width == LARGEST_BITS.bit_length()
        counts_GK = joint_counts(groups, partial(_field_counts, prefix_G, shift, width))
        if is_first:
            zeros_G = counts_GK[:, -1] * (not rule.rank_zeros)
            nonfinite_G = counts_GK[:, _BITS_OF_INF >> shift : -1].sum(1)
            ranks_G = left_G = rule.ranks([size_of(group) for group in groups], zeros_G)
        bin_G, left_G, ties_G = bins_on_device(counts_GK[:, :-1], left_G)
        prefix_G = prefix_G << width | bin_G
    return torch.stack([prefix_G << shift, ranks_G - left_G, ties_G, zeros_G, nonfinite_G], 1)


def _field_counts(prefix_G: Tensor, shift: int, width: int, parts: Sequence[Chunks], _: Place) -> Tensor:
    from gmt.masking.triton_kernels import field_counts

    return field_counts(parts, prefix_G, shift, width)
