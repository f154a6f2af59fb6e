"""Applies selections to entries: makes masks of the kept entries, zeroes the masked entries, or restores them.

C on the CPU (kernels.c), Triton on CUDA and torch ops anywhere give the same bits. The C code exists because torch is
slow with bool masks on the CPU.

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
_FEWEST_ENTRIES_OF_A_THREAD = 1 << 17  # starting a thread takes as long as masking this many entries


def keep_mask(score_N: Tensor, selection: Selection) -> Tensor:
    """Return a mask of the kept entries, bool of shape [N].

    Args:
        score_N: contiguous scores: float32, bfloat16, float16, or int32 bits.
        selection: the bounds of the scores that are kept.
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


def keep_masks(parameters: Sequence[Ranked], row: Row, selections: Mapping[str, Selection]) -> dict[str, Tensor]:
    """Return a mask of each parameter's kept entries, bool of shape [N], by the parameter's name."""
    masks = {r.name: torch.empty(len(r.gradient_N), dtype=torch.bool, device=r.gradient_N.device) for r in parameters}
    in_c = [r for r in parameters if r.gradient_N.device.type == "cpu" and library() is not None]
    _mask_in_c([(r, masks[r.name], None) for r in in_c], row, selections)
    in_triton = _for_one_launch(parameters, row)
    for device, on_device in _by_device(in_triton).items():
        from gmt.masking.triton_entries import bounds_of, keep_inside

        bounds = bounds_of([selections[r.name] for r in on_device], device)
        keep_inside([(r.gradient_N, r.draw(row)) for r in on_device], bounds, [masks[r.name] for r in on_device])
    names = {r.name for r in (*in_c, *in_triton)}
    for r in parameters:
        if r.name not in names:
            for part in r.stretches(row):
                masks[r.name][part] = keep_mask(row.score(r, part), selections[r.name])
    return masks


def masked_weights(
    parameters: Sequence[Ranked], row: Row, selections: Mapping[str, Selection]
) -> dict[str, Tensor] | None:
    """Return copies of the weights from which `restore_weights_` restores the masked ones; None if C can't do it.

    Returns:
        A copy of each parameter's weights by name. It holds a certain NaN in the place of each kept entry; if a masked
        weight has the bits of this NaN too, the result is None.
    """
    weights = {r.name: local(r.parameter.detach()) for r in parameters}
    if not all(map(_is_for_c, weights.values())):
        return None
    copies = {name: torch.empty_like(weight) for name, weight in weights.items()}
    targets: list[_Masked] = [(r, weights[r.name].view(-1), copies[r.name].view(-1)) for r in parameters]
    return None if _mask_in_c(targets, row, selections) else copies


def restore_weights_(weights_and_copies: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Restore masked weights in place, from the copies of `masked_weights`.

    Args:
        weights_and_copies: the present weights, and their copies.
    """
    # a contiguous weight of the copy's dtype is used as it is
    weights = [(weight, weight.to(copy.dtype).contiguous(), copy) for weight, copy in weights_and_copies]
    _restore_in_c((dense, copy, None) for _, dense, copy in weights)
    for weight, dense, _ in weights:
        if dense is not weight:
            weight.copy_(dense)


def zero_masked_each_(parameters: Sequence[Ranked], row: Row, selections: Mapping[str, Selection]) -> None:
    """Zero the masked entries of each gradient, in place; in one launch on a GPU if no score must be computed."""
    parameters = [r for r in parameters if not selections[r.name].is_applied]
    in_triton = _for_one_launch(parameters, row)
    for device, on_device in _by_device(in_triton).items():
        from gmt.masking.triton_entries import bounds_of, zero_outside

        bounds = bounds_of([selections[r.name] for r in on_device], device)
        zero_outside([(r.gradient_N, r.draw(row)) for r in on_device], range(len(on_device)), bounds)
    in_c = [r for r in parameters if DRAW in row.needs and r.gradient_N.device.type == "cpu" and library() is not None]
    _mask_in_c([(r, r.gradient_N, None) for r in in_c], row, selections)
    names = {r.name for r in (*in_triton, *in_c)}
    for r in parameters:
        if r.name not in names:
            zero_masked_(r, row, selections[r.name])


def _for_one_launch(parameters: Sequence[Ranked], row: Row) -> list[Ranked]:
    """Return the parameters on a GPU whose gradients are their scores, or whose scores are drawn."""
    is_uncomputed = row.name == "gradient" or DRAW in row.needs
    return [r for r in parameters if is_uncomputed and has_triton(r.gradient_N.device)]


def _by_device(parameters: Iterable[Ranked]) -> dict[torch.device, list[Ranked]]:
    by_device: dict[torch.device, list[Ranked]] = {}
    for r in parameters:
        by_device.setdefault(r.gradient_N.device, []).append(r)
    return by_device


def zero_masked_(r: Ranked, row: Row, selection: Selection) -> None:
    """Zero the masked entries of a gradient, in place."""
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


def zero_unkept_each_(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Zero, in place, the entries of contiguous float tensors that their masks do not keep.

    Args:
        pairs: each tensor, of shape [N], and its mask of kept entries.
    """
    in_c = [pair for pair in pairs if _is_for_c(*pair)]
    _restore_in_c((x_N, None, keep_N) for x_N, keep_N in in_c)
    for x_N, keep_N in pairs:
        if not _is_for_c(x_N, keep_N):
            x_N.mul_(keep_N)


def restore_unkept_each_(triples: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Restore the entries that are not kept to their earlier values, in place.

    Args:
        triples: each tensor, its earlier values in the same shape and dtype, and its mask of kept entries, of shape
            [N].
    """
    _restore_in_c(triple for triple in triples if _is_for_c(*triple))
    in_triton = [triple for triple in triples if _is_for_triton(*triple)]
    if in_triton:
        from gmt.masking.triton_entries import restore_unkept

        restore_unkept(in_triton)
    for x, before, keep_N in triples:
        if x.numel() and not _is_for_c(x, before, keep_N) and not _is_for_triton(x, before, keep_N):
            torch.where(keep_N.view(x.shape), x, before, out=x)


def _is_for_triton(x: Tensor, *others: Tensor) -> bool:
    return has_triton(x.device) and x.dtype in DTYPES and all(t.is_contiguous() for t in (x, *others))


def _is_for_c(x: Tensor, *others: Tensor) -> bool:
    is_supported = x.device.type == "cpu" and x.element_size() in WIDTHS
    return is_supported and all(t.is_contiguous() for t in (x, *others)) and library() is not None


def _restore_in_c(triples: Iterable[tuple[Tensor, Tensor | None, Tensor | None]]) -> None:
    """Restore the entries that are not kept: None as earlier values zeroes them, None as mask means marked copies."""
    tasks, size = [], 0
    for x, before, keep_N in triples:
        width = x.element_size()
        for first in range(0, x.numel(), CHUNK):
            before_address = None if before is None else before.data_ptr() + width * first
            num = min(CHUNK, x.numel() - first)
            keep_address = None if keep_N is None else keep_N.data_ptr() + first
            tasks.append(Unkept(x.data_ptr() + width * first, before_address, keep_address, num, 8 * width))
            size += num
    _call("restore_chunks", tasks, size)


def _mask_in_c(targets: Iterable[_Masked], row: Row, selections: Mapping[str, Selection]) -> int:
    """Mask contiguous tensors of shape [N] by the scores of their parameters; see `bounded` in kernels.c.

    Returns:
        The number of masked entries with the bits of the NaN that marks kept entries; above 0, copies can't be used.
    """

    def num_computed(part: tuple[Bounded, Tensor | None]) -> int:
        task, score_N = part
        return 0 if score_N is None or row.is_view else task.scores.size

    return sum(
        task.num_alike
        for batch in in_batches(_tasks(targets, row, selections), num_computed)
        for task in _call("mask_chunks", [task for task, _ in batch], sum(task.scores.size for task, _ in batch))
    )


def _tasks(
    targets: Iterable[_Masked], row: Row, selections: Mapping[str, Selection]
) -> Iterator[tuple[Bounded, Tensor | None]]:
    """Yield the tasks of `mask_chunks`, each with the tensor of its scores, which must stay alive; None if drawn."""
    for r, entries_N, copy_N in targets:
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
    """Run a function of kernels.c on tasks of one class, in several threads; return the tasks with their results."""
    if not tasks:
        return []
    array = (type(tasks[0]) * len(tasks))(*tasks)
    num_threads = min(torch.get_num_threads(), max(num_entries // _FEWEST_ENTRIES_OF_A_THREAD, 1))
    in_threads(getattr(library(), name), array, [()] * num_threads)
    return list(array)
