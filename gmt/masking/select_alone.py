"""The selection in small tensors on the CPU, each by one call of the C code."""

from collections.abc import Sequence

from torch import Tensor

from gmt.masking.counting import select_chunks
from gmt.masking.rule import CHUNK, Rule, Scores, Selection, num_masked

_ENTRIES_AT_ONCE = 1 << 23  # bounds the memory of computed scores


def select_alone(groups: Sequence[Sequence[Scores]], rule: Rule) -> dict[int, Selection]:
    """Return the selections of the groups that are one small tensor on the CPU, by index; none without the C code."""
    done: dict[int, Selection] = {}
    batch: dict[int, Tensor] = {}
    batch_size = 0
    for i, group in enumerate(groups):
        if _is_alone(group):
            batch[i] = next(group[0].chunks())
            batch_size += group[0].num_entries
            if batch_size >= _ENTRIES_AT_ONCE:
                done |= _select_batch(batch, rule)
                batch, batch_size = {}, 0
    return done | _select_batch(batch, rule)


def _is_alone(group: Sequence[Scores]) -> bool:
    """Whether a group is one small tensor on the CPU."""
    return (
        len(group) == 1
        and group[0].shards is None
        and group[0].device.type == "cpu"
        and 0 < group[0].num_entries <= CHUNK
    )


def _select_batch(batch: dict[int, Tensor], rule: Rule) -> dict[int, Selection]:
    sizes = [chunk.numel() for chunk in batch.values()]
    masked = [num_masked(rule.mask_ratio, size) for size in sizes]
    chunks = list(batch.values())
    found = select_chunks(chunks, masked, smallest=rule.smallest, rank_zeros=rule.rank_zeros) if batch else None
    if found is None:
        return {}
    return {
        i: rule.selection(size, f.threshold, f.below, f.ties, 0 if rule.rank_zeros else f.zeros, f.nonfinite)
        for i, size, f in zip(batch, sizes, found, strict=True)
    }
