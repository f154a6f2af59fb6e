"""Counts magnitudes by their upper bits, and collects the lower bits of the entries in one bin.

C on the CPU (kernels.c) and torch ops anywhere give the same integers; triton_kernels.py counts other bit fields.
Counts of chunks, tensors and shards add up. Knows nothing of thresholds.

Shape suffixes: G groups; N entries of a chunk, flattened; U upper bins, and one more for exact zeros.
"""

import ctypes
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from gmt.masking.native import Chunk, library

NUM_UPPER = 1 << 15
UPPER_OF_INF = 0x7F80  # this bin and those above it hold Inf and NaN
AT_ONCE = 1 << 23  # entries in a batch of chunks, which bounds the memory of computed scores

Chunks = Callable[[], Iterator[Tensor]]
_Item = TypeVar("_Item")

_WIDTH = 8  # the most bits of a field: before Triton 3.9, the time of a histogram grows with the number of bins
_LOW_ZEROS = {torch.float32: 0, torch.int32: 0, torch.bfloat16: 16, torch.float16: 13}  # low bits that are never set


def as_bits(x_N: Tensor) -> Tensor:
    """Return the 31 bits of |x| in float32, as int32; exact for float16 and bfloat16. int32 values are bits already."""
    if x_N.dtype == torch.int32:
        return x_N
    return x_N.float().view(torch.int32) & 0x7FFFFFFF


def fields(dtypes: Iterable[torch.dtype]) -> tuple[tuple[int, int], ...]:
    """Return the bit fields to count, as (shift, width), from the highest of 31 bits to the lowest that may be set."""
    low = min(_LOW_ZEROS[dtype] for dtype in dtypes)
    shift = 31
    shifts_and_widths: list[tuple[int, int]] = []
    while shift > low:
        width = min(_WIDTH, shift - low)
        shift -= width
        shifts_and_widths.append((shift, width))
    return tuple(shifts_and_widths)


def upper_counts(groups: Sequence[Chunks], device: torch.device) -> Tensor:
    """Count each group's magnitudes by their upper 15 bits.

    Args:
        groups: for each group, a function that returns its chunks: contiguous tensors of shape [N], float32, bfloat16,
            float16 or int32 bits, on `device`, each below 2^31 entries.
        device: the device of all chunks.

    Returns:
        int64 of shape [G, U]: counts of the upper bits; the last column is the number of exact zeros.
    """
    totals_GU = torch.zeros(len(groups), NUM_UPPER + 1, dtype=torch.int64, device=device)
    native = library() if device.type == "cpu" else None
    if native is None:
        for group, chunk_N in _chunks_with_group(groups):
            _count_upper(chunk_N, totals_GU[group])
        return totals_GU

    scratch = [_scratch() for _ in range(torch.get_num_threads())]
    for batch in _batches(groups):
        chunks = (Chunk * len(batch))(*(chunk_of(group, chunk_N) for group, chunk_N in batch))
        in_threads(native.count_upper, chunks, [(counts, totals_GU.data_ptr()) for counts in scratch])
    return totals_GU


def lower_bits(groups: Sequence[Chunks], uppers: Sequence[int], device: torch.device) -> list[Tensor]:
    """Return the lower 16 bits, as int32, of the entries of each group whose upper bits equal the group's `uppers`."""
    lowers: list[list[Tensor]] = [[torch.zeros(0, dtype=torch.int32, device=device)] for _ in groups]
    native = library() if device.type == "cpu" else None
    if native is None:
        for group, chunk_N in _chunks_with_group(groups):
            bits_N = as_bits(chunk_N)
            lowers[group].append(bits_N[(bits_N >> 16) == uppers[group]] & 0xFFFF)
        return [torch.cat(parts) for parts in lowers]

    upper_G = torch.tensor(uppers)
    for batch in _batches(groups):
        batch = [(group, chunk_N.float() if chunk_N.dtype == torch.bfloat16 else chunk_N) for group, chunk_N in batch]
        # Space for every entry; the system provides memory only for the pages that are written.
        outs = [torch.empty(chunk_N.numel(), dtype=torch.int32) for _, chunk_N in batch]
        parts = ((group, chunk_N, out) for (group, chunk_N), out in zip(batch, outs, strict=True))
        chunks = (Chunk * len(batch))(*(chunk_of(*part) for part in parts))
        in_threads(native.collect_lower, chunks, [(upper_G.data_ptr(),)] * torch.get_num_threads())
        for chunk, out in zip(chunks, outs, strict=True):
            lowers[chunk.group].append(out[: chunk.found].clone())
    return [torch.cat(parts) for parts in lowers]


def _chunks_with_group(groups: Sequence[Chunks]) -> Iterator[tuple[int, Tensor]]:
    """Yield the chunks that are not empty, each with the index of its group."""
    for group, chunks in enumerate(groups):
        for chunk_N in chunks():
            if chunk_N.numel():
                yield group, chunk_N


def _batches(groups: Sequence[Chunks]) -> Iterator[list[tuple[int, Tensor]]]:
    """Yield lists of chunks that are counted together, each chunk with the index of its group."""
    parts = ((group, readable(chunk_N)) for group, chunk_N in _chunks_with_group(groups))
    return in_batches(parts, lambda part: part[1].numel())


def in_batches(items: Iterable[_Item], num_entries: Callable[[_Item], int]) -> Iterator[list[_Item]]:
    """Yield items in lists, each of which ends with the item that brings it to `AT_ONCE` entries."""
    batch: list[_Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += num_entries(item)
        if size >= AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def readable(chunk_N: Tensor) -> Tensor:
    """Return entries in a dtype that the C code reads."""
    return chunk_N.float() if chunk_N.dtype == torch.float16 else chunk_N


def _scratch() -> ctypes.Array[ctypes.c_uint32]:
    """Return zeros for one thread; torch.zeros would use torch's threads, which then spin and slow down ours."""
    return (ctypes.c_uint32 * (2 * NUM_UPPER))()


def chunk_of(group: int, chunk_N: Tensor, out: Tensor | None = None) -> Chunk:
    """Return the C structure of a chunk of entries; functions that gather entries write their bits to `out`."""
    assert chunk_N.is_contiguous()
    width = 8 * chunk_N.element_size()
    return Chunk(chunk_N.data_ptr(), chunk_N.numel(), width, group, None if out is None else out.data_ptr())


def chunk_of_hashes(group: int, size: int, start: int, key: tuple[int, int]) -> Chunk:
    """Return the C structure of `size` hashes of random_bits.py, from index `start` on; the C code computes them."""
    return Chunk(size=size, group=group, start=start, key1=key[0], key2=key[1])


def in_threads(
    function: Callable[..., None], tasks: ctypes.Array[Any], threads_arguments: Sequence[tuple[object, ...]]
) -> None:
    """Call a C function in several threads, the calling thread included; they share the tasks and release the GIL.

    torch's own threads can't be used, since they run torch's operations only. The threads end with the call, so that
    none is lost in a fork.

    Args:
        function: a function of the C code, whose arguments are the tasks, their number, a counter of the tasks that a
            thread has begun, and the thread's own arguments.
        tasks: an array of C structures that the function reads and writes.
        threads_arguments: for each thread, its own arguments; at most as many threads as tasks are used.
    """
    shared = (tasks, len(tasks), ctypes.byref(ctypes.c_int64(0)))
    calls = [(*shared, *arguments) for arguments in threads_arguments[: len(tasks)]]
    threads = [threading.Thread(target=function, args=call) for call in calls[1:]]
    for thread in threads:
        thread.start()
    function(*calls[0])
    for thread in threads:
        thread.join()


def _count_upper(chunk_N: Tensor, total_U: Tensor) -> None:
    """`count_upper` of kernels.c in torch ops."""
    if chunk_N.dtype == torch.bfloat16:
        bits_N = upper_N = chunk_N.view(torch.int16) & 0x7FFF
    else:
        bits_N = as_bits(chunk_N)
        upper_N = bits_N >> 16
    total_U[:-1] += torch.bincount(upper_N, minlength=NUM_UPPER)
    total_U[-1] += bits_N.numel() - torch.count_nonzero(bits_N)
