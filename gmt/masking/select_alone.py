"""Selects on the CPU in groups of one small tensor; each group is one task of the C code.

A sample bounds the threshold. One read of the scores then counts those below the bounds, and gathers those between
them; see select.c.
"""

import ctypes
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gmt.masking.counting import chunk_of, chunk_of_hashes, in_batches, in_threads, readable
from gmt.masking.native import Bracket, Chunk, ChunkSelection, library
from gmt.masking.rule import CHUNK, Rule, Scores, Selection, num_masked, size_of

FEWEST_SAMPLES = 1 << 10
MOST_SAMPLES = 1 << 16
SLACK = 16  # entries that the C code may write past the gathered ones
DEVIATIONS = 4  # the bounds of one sample in ten thousand miss the threshold, which costs three more reads


def select_alone(groups: Sequence[Sequence[Scores]], rule: Rule) -> dict[int, Selection]:
    """Return the selections, by index, of the groups of one small tensor on the CPU; empty without the C code."""
    native = library()
    if native is None:
        return {}
    alone = ((i, group[0]) for i, group in enumerate(groups) if _is_alone(group))
    selections: dict[int, Selection] = {}
    for batch in in_batches(alone, lambda item: item[1].num_entries):
        selections |= _select_batch(dict(batch), rule, native)
    return selections


def num_samples(size: int) -> int:
    """Return the size of the sample that bounds a group's threshold; 0 for a small group, which is gathered whole."""
    # The number of entries between the bounds is proportional to size / sqrt(num). So sampling and gathering together
    # take least time at num = c * size ** (2 / 3); c was measured.
    num = min(max(int(size ** (2 / 3) / 5), FEWEST_SAMPLES), MOST_SAMPLES)
    return num if size >= 4 * num else 0


def is_whole_on_cpu(group: Sequence[Scores]) -> bool:
    """Return whether a group has entries, and all of them lie on the CPU of this process."""
    return size_of(group) > 0 and all(scores.shards is None and scores.device.type == "cpu" for scores in group)


def parts(group: int, scores: Scores) -> Iterator[tuple[Chunk, Tensor | None]]:
    """Yield the chunks of a tensor's scores for the C code, each with the tensor that holds it; None for drawn scores.

    The tensor must stay alive as long as the chunk is used.

    Args:
        group: the index of the tensor's group.
        scores: the tensor's scores.
    """
    if scores.draw is not None:
        for first in range(0, scores.num_entries, CHUNK):
            size = min(CHUNK, scores.num_entries - first)
            yield chunk_of_hashes(group, size, scores.draw.start + first, scores.draw.key), None
        return
    for chunk_N in map(readable, scores.chunks()):
        if chunk_N.numel():
            yield chunk_of(group, chunk_N), chunk_N


def _is_alone(group: Sequence[Scores]) -> bool:
    return len(group) == 1 and group[0].num_entries <= CHUNK and is_whole_on_cpu(group)


def _select_batch(batch: dict[int, Scores], rule: Rule, native: ctypes.CDLL) -> dict[int, Selection]:
    chunks = [part for scores in batch.values() for part in parts(0, scores)]
    tasks = (ChunkSelection * len(batch))()
    for task, (chunk, _) in zip(tasks, chunks, strict=True):
        num = num_samples(chunk.size)
        task.between = Bracket(chunk)
        task.masked = num_masked(rule.mask_ratio, chunk.size)
        task.smallest, task.rank_zeros = rule.smallest, rule.rank_zeros
        task.samples, task.margin = num, rule.margin(num, DEVIATIONS)
    num_threads = min(torch.get_num_threads(), len(batch))
    largest = max(scores.num_entries for scores in batch.values())
    buffers = [torch.empty(largest + SLACK, dtype=torch.int32) for _ in range(num_threads)]
    in_threads(native.select_chunks, tasks, [(buffer.data_ptr(),) for buffer in buffers])
    return {i: _selection(task, rule) for i, task in zip(batch, tasks, strict=True)}


def _selection(task: ChunkSelection, rule: Rule) -> Selection:
    between = task.between
    zeros = 0 if rule.rank_zeros else between.zeros
    return rule.selection(between.data.size, task.threshold, task.below, task.ties, zeros, between.nonfinite)
