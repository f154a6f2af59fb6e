"""The selection in small tensors on the CPU, each by one call of the C code.

A sample bounds the threshold, and one read counts and gathers by the bounds; see select.c.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from gmt.masking.counting import chunk_of, chunk_of_hashes, in_threads, readable
from gmt.masking.native import Bracket, Chunk, ChunkSelection, library
from gmt.masking.rule import CHUNK, Rule, Scores, Selection, num_masked

_ENTRIES_AT_ONCE = 1 << 23  # bounds the memory of computed scores
FEWEST_SAMPLES = 1 << 10
MOST_SAMPLES = 1 << 16
SLACK = 16  # entries that the C code may write behind those that it gathers
DEVIATIONS = 4  # one sample in ten thousand misleads, and costs three more reads


def select_alone(groups: Sequence[Sequence[Scores]], rule: Rule) -> dict[int, Selection]:
    """Return the selections of the groups that are one small tensor on the CPU, by index; none without the C code."""
    if library() is None:
        return {}
    done: dict[int, Selection] = {}
    batch: dict[int, Scores] = {}
    batch_size = 0
    for i, group in enumerate(groups):
        if _is_alone(group):
            batch[i] = group[0]
            batch_size += group[0].num_entries
            if batch_size >= _ENTRIES_AT_ONCE:
                done |= _select_batch(batch, rule)
                batch, batch_size = {}, 0
    return done | _select_batch(batch, rule)


def num_samples(size: int) -> int:
    """Return how many of a group's entries bound its threshold; 0 where it is small and all are looked at."""
    # The entries between the bounds are as size / sqrt(num), so that they and the samples cost least together at
    # num = c * size ** (2 / 3); c was measured.
    num = min(max(int(size ** (2 / 3) / 5), FEWEST_SAMPLES), MOST_SAMPLES)
    return num if size >= 4 * num else 0


def _is_alone(group: Sequence[Scores]) -> bool:
    """Whether a group is one small tensor on the CPU."""
    return (
        len(group) == 1
        and group[0].shards is None
        and group[0].device.type == "cpu"
        and 0 < group[0].num_entries <= CHUNK
    )


def _select_batch(batch: dict[int, Scores], rule: Rule) -> dict[int, Selection]:
    native = library()
    if not batch or native is None:
        return {}
    chunks = [_chunk(scores) for scores in batch.values()]
    tasks = (ChunkSelection * len(batch))()
    for task, (chunk, _) in zip(tasks, chunks, strict=True):
        num = num_samples(chunk.size)
        task.between = Bracket(chunk)
        task.masked = num_masked(rule.mask_ratio, chunk.size)
        task.smallest, task.rank_zeros = rule.smallest, rule.rank_zeros
        task.samples, task.margin = num, rule.margin(num, DEVIATIONS)
    num_threads = min(torch.get_num_threads(), len(batch))
    largest = max(scores.num_entries for scores in batch.values())
    rooms = [torch.empty(largest + SLACK, dtype=torch.int32) for _ in range(num_threads)]
    shared = (tasks, len(tasks), ctypes.byref(ctypes.c_int64(0)))
    in_threads(native.select_chunks, [(*shared, room.data_ptr()) for room in rooms])
    return {i: _selection(task, rule) for i, task in zip(batch, tasks, strict=True)}


def _chunk(scores: Scores) -> tuple[Chunk, Tensor | None]:
    """Return the scores for the C code, and the tensor that holds them, if they are not drawn."""
    if scores.draw is not None:
        return chunk_of_hashes(0, scores.num_entries, scores.draw.start, scores.draw.key), None
    chunk_N = readable(next(scores.chunks()))
    return chunk_of(0, chunk_N), chunk_N


def _selection(task: ChunkSelection, rule: Rule) -> Selection:
    between = task.between
    zeros = 0 if rule.rank_zeros else between.zeros
    return rule.selection(between.data.size, task.threshold, task.below, task.ties, zeros, between.nonfinite)
