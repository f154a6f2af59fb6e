"""The selection on the CPU in groups that are one small tensor, as one task of the C code each.

A sample bounds the threshold, and one read counts and gathers by the bounds; see select.c.
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
SLACK = 16  # entries that the C code may write behind those that it gathers
DEVIATIONS = 4  # one sample in ten thousand misleads, and costs three more reads


def select_alone(groups: Sequence[Sequence[Scores]], rule: Rule) -> dict[int, Selection]:
    """Return the selections of the groups that are one small tensor on the CPU, by index; none without the C code."""
    native = library()
    if native is None:
        return {}
    alone = ((i, group[0]) for i, group in enumerate(groups) if _is_alone(group))
    done: dict[int, Selection] = {}
    for batch in in_batches(alone, lambda one: one[1].num_entries):
        done |= _select_batch(dict(batch), rule, native)
    return done


def num_samples(size: int) -> int:
    """Return how many of a group's entries bound its threshold; 0 for a small group, of which all are gathered."""
    # The number of entries between the bounds grows as size / sqrt(num), so that gathering them and sampling cost least
    # together at num = c * size ** (2 / 3); c was measured.
    num = min(max(int(size ** (2 / 3) / 5), FEWEST_SAMPLES), MOST_SAMPLES)
    return num if size >= 4 * num else 0


def is_whole_on_cpu(group: Sequence[Scores]) -> bool:
    """Return whether a group has entries, and all of them lie on the CPU of this process."""
    return size_of(group) > 0 and all(scores.shards is None and scores.device.type == "cpu" for scores in group)


def parts(group: int, scores: Scores) -> Iterator[tuple[Chunk, Tensor | None]]:
    """Yield the chunks of a tensor's scores for the C code, and the tensors that hold them, if they are not drawn.

    Args:
        group: index of the tensor's group.
        scores: of the tensor.
    """
    if scores.draw is not None:
        for at in range(0, scores.num_entries, CHUNK):
            size = min(CHUNK, scores.num_entries - at)
            yield chunk_of_hashes(group, size, scores.draw.start + at, scores.draw.key), None
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
