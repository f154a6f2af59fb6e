"""Applies a selection to entries: tells which stay, zeroes the others, or restores the others.

C on the CPU (kernels.c), Triton on CUDA and torch ops anywhere give the same bits. The C code is there because torch
is slow with bool masks on the CPU.

Shape suffixes: N entries, flattened.
"""

import ctypes
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from gmt.masking.counting import as_bits, chunk_of, chunk_of_hashes, in_batches, in_threads, readable
from gmt.masking.native import WIDTHS, Bounded, Chunk, Unkept, has_triton, library
from gmt.masking.parameters import DTYPES, Ranked
from gmt.masking.rule import CHUNK, LARGEST_BITS, Selection
from gmt.masking.sharding import local
from gmt.masking.signals import DRAW, Row

_Masked = tuple[Ranked, Tensor, Tensor | None]  # a parameter, the tensor that its scores mask, and a copy of the tensor
_Task = TypeVar("_Task", bound=ctypes.Structure)
_ENTRIES_OF_A_THREAD = 1 << 17  # at least: to start a thread takes as long as to mask so many


def keep_mask(score_N: Tensor, selection: Selection) -> Tensor:
    """Return which entries stay, bool of shape [N].

    Args:
        score_N: contiguous; float32, bfloat16, float16, or int32 bits.
        selection: the bounds between which scores stay.
    """
    if has_triton(score_N.device):
        from gmt.masking.triton_entries import bounds_of, keep_inside

        keep_N = torch.empty(score_N.numel(), dtype=torch.bool, device=score_N.device)
        keep_inside([(score_N, None)], bounds_of([selection], score_N.device), [keep_N])
        return keep_N
    if score_N.device.type != "cpu" or library() is None:
        return selection.keeps(as_bits(score_N))
    keep_N, score_N = torch.empty(len(score_N), dtype=torch.bool), readable(score_N)
    _call("mask_chunks", [_bounded(chunk_of(0, score_N), selection, keep_N)], len(score_N))
    return keep_N


def keep_masks(every: Sequence[Ranked], row: Row, selections: Mapping[str, Selection]) -> dict[str, Tensor]:
    """Return which entries of each parameter stay, bool of shape [N], by name."""
    masks = {r.name: torch.empty(len(r.gradient_N), dtype=torch.bool, device=r.gradient_N.device) for r in every}
    in_c = [r for r in every if r.gradient_N.device.type == "cpu" and library() is not None]
    _mask_in_c([(r, masks[r.name], None) for r in in_c], row, selections)
    together = _for_one_launch(every, row)
    for device, scored in _by_device(together).items():
        from gmt.masking.triton_entries import bounds_of, keep_inside

        bounds = bounds_of([selections[r.name] for r in scored], device)
        keep_inside([(r.gradient_N, r.draw(row)) for r in scored], bounds, [masks[r.name] for r in scored])
    names = {r.name for r in (*in_c, *together)}
    for r in every:
        if r.name not in names:
            for part in r.stretches(row):
                masks[r.name][part] = keep_mask(row.score(r, part), selections[r.name])
    return masks


def masked_weights(every: Sequence[Ranked], row: Row, selections: Mapping[str, Selection]) -> dict[str, Tensor] | None:
    """Return copies of the weights for `restore_weights_`, which restores the masked ones; None if C can't do it.

    Returns:
        A copy of each parameter's weights by name. A NaN takes the place of each weight that is free to move; no masked
        weight has the bits of this NaN.
    """
    weights = {r.name: local(r.parameter.detach()) for r in every}
    if not all(map(_is_for_c, weights.values())):
        return None
    copies = {name: torch.empty_like(weight) for name, weight in weights.items()}
    num_alike = _mask_in_c([(r, weights[r.name].view(-1), copies[r.name].view(-1)) for r in every], row, selections)
    return None if num_alike else copies


def restore_weights_(held: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Restore masked weights in place, from the copies of `masked_weights`.

    Args:
        held: the weights as they are now, and the copies.
    """
    # a weight of the copy's dtype that is contiguous is not copied
    weights = [(now, now.to(before.dtype).contiguous(), before) for now, before in held]
    _restore_in_c((dense, before, None) for _, dense, before in weights)
    for now, dense, _ in weights:
        if dense is not now:
            now.copy_(dense)


def zero_masked_each_(every: Sequence[Ranked], row: Row, selections: Mapping[str, Selection]) -> None:
    """Zero the entries of each gradient that do not stay, in place; in one launch on a GPU if no score is computed."""
    every = [r for r in every if not selections[r.name].is_applied]
    together = _for_one_launch(every, row)
    for device, scored in _by_device(together).items():
        from gmt.masking.triton_entries import bounds_of, zero_outside

        bounds = bounds_of([selections[r.name] for r in scored], device)
        zero_outside([(r.gradient_N, r.draw(row)) for r in scored], range(len(scored)), bounds)
    in_c = [r for r in every if DRAW in row.needs and r.gradient_N.device.type == "cpu" and library() is not None]
    _mask_in_c([(r, r.gradient_N, None) for r in in_c], row, selections)
    names = {r.name for r in (*together, *in_c)}
    for r in every:
        if r.name not in names:
            zero_masked_(r, row, selections[r.name])


def _for_one_launch(every: Sequence[Ranked], row: Row) -> list[Ranked]:
    """Return the parameters on a GPU whose gradients are their scores, or whose scores are drawn."""
    is_known = row.name == "gradient" or DRAW in row.needs
    return [r for r in every if is_known and has_triton(r.gradient_N.device)]


def _by_device(every: Iterable[Ranked]) -> dict[torch.device, list[Ranked]]:
    by_device: dict[torch.device, list[Ranked]] = {}
    for r in every:
        by_device.setdefault(r.gradient_N.device, []).append(r)
    return by_device


def zero_masked_(r: Ranked, row: Row, selection: Selection) -> None:
    """Zero the entries of a gradient that do not stay, in place."""
    g_N = r.gradient_N
    if row.name == "gradient" and selection.highest == LARGEST_BITS and g_N.dtype != torch.float16:
        # hardshrink keeps |g| > x: one pass over memory. x is the largest value below the threshold in g's dtype.
        bits = selection.lowest - 1
        bits = bits >> 16 << 16 if g_N.dtype == torch.bfloat16 else bits
        below = torch.tensor(bits, dtype=torch.int32).view(torch.float32).item()
        if math.isfinite(below):
            torch.ops.aten.hardshrink.out(g_N, below, out=g_N)
            return
    for part in r.stretches(row):
        zero_unkept_each_([(g_N[part], keep_mask(row.score(r, part), selection))])


def zero_unkept_each_(every: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Zero, in place, the entries of contiguous float tensors of shape [N] that their masks do not keep."""
    in_c = [one for one in every if _is_for_c(*one)]
    _restore_in_c((x_N, None, keep_N) for x_N, keep_N in in_c)
    for x_N, keep_N in every:
        if not _is_for_c(x_N, keep_N):
            x_N.mul_(keep_N)


def restore_unkept_each_(every: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Restore the entries that are not kept to their earlier values, in place.

    Args:
        every: tensors as they are now and as they were before, of one shape and dtype, and the mask of kept entries, of
            shape [N].
    """
    _restore_in_c(one for one in every if _is_for_c(*one))
    together = [one for one in every if _is_for_triton(*one)]
    if together:
        from gmt.masking.triton_entries import restore_unkept

        restore_unkept(together)
    for now, before, keep_N in every:
        if now.numel() and not _is_for_c(now, before, keep_N) and not _is_for_triton(now, before, keep_N):
            torch.where(keep_N.view(now.shape), now, before, out=now)


def _is_for_triton(x: Tensor, *others: Tensor) -> bool:
    return has_triton(x.device) and x.dtype in DTYPES and all(t.is_contiguous() for t in (x, *others))


def _is_for_c(x: Tensor, *others: Tensor) -> bool:
    is_known = x.device.type == "cpu" and x.element_size() in WIDTHS
    return is_known and all(t.is_contiguous() for t in (x, *others)) and library() is not None


def _restore_in_c(every: Iterable[tuple[Tensor, Tensor | None, Tensor | None]]) -> None:
    tasks, size = [], 0
    for now, before, keep_N in every:
        width = now.element_size()
        for at in range(0, now.numel(), CHUNK):
            from_before = None if before is None else before.data_ptr() + width * at
            num = min(CHUNK, now.numel() - at)
            keep = None if keep_N is None else keep_N.data_ptr() + at
            tasks.append(Unkept(now.data_ptr() + width * at, from_before, keep, num, 8 * width))
            size += num
    _call("restore_chunks", tasks, size)


def _mask_in_c(every: Iterable[_Masked], row: Row, selections: Mapping[str, Selection]) -> int:
    """Mask a contiguous tensor of shape [N] of each parameter by its scores; see `bounded` in kernels.c.

    Returns:
        The number of masked entries that have the bits of the NaN that marks free ones, so that a copy can't be used.
    """

    def num_computed(part: tuple[Bounded, Tensor | None]) -> int:
        task, score_N = part
        return 0 if score_N is None or row.is_view else task.scores.size

    return sum(
        task.num_alike
        for batch in in_batches(_tasks(every, row, selections), num_computed)
        for task in _call("mask_chunks", [task for task, _ in batch], sum(task.scores.size for task, _ in batch))
    )


def _tasks(
    every: Iterable[_Masked], row: Row, selections: Mapping[str, Selection]
) -> Iterator[tuple[Bounded, Tensor | None]]:
    """Yield the tasks of `mask_chunks`, with the tensors that hold scores that are not drawn."""
    for r, entries_N, copy_N in every:
        draw = r.draw(row)
        for part in r.stretches(row):
            score_N = None if draw else readable(row.score(r, part))
            if score_N is None:
                assert draw is not None
                chunk = chunk_of_hashes(0, part.stop - part.start, draw.start + part.start, draw.key)
            else:
                chunk = chunk_of(0, score_N)
            copy = None if copy_N is None else copy_N[part]
            yield _bounded(chunk, selections[r.name], entries_N[part], copy), score_N


def _bounded(scores: Chunk, selection: Selection, entries_N: Tensor, copy_N: Tensor | None = None) -> Bounded:
    assert entries_N.is_contiguous()
    width, copy = 8 * entries_N.element_size(), None if copy_N is None else copy_N.data_ptr()
    return Bounded(scores, selection.lowest, selection.highest, entries_N.data_ptr(), width, copy)


def _call(name: str, tasks: Sequence[_Task], num_entries: int) -> list[_Task]:
    """Call a function of kernels.c with tasks of one kind that threads share; return the tasks as they are then."""
    if not tasks:
        return []
    array = (type(tasks[0]) * len(tasks))(*tasks)
    num_threads = min(torch.get_num_threads(), max(num_entries // _ENTRIES_OF_A_THREAD, 1))
    in_threads(getattr(library(), name), array, [()] * num_threads)
    return list(array)
