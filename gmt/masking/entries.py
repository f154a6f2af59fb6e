"""Entry by entry: which ones stay, zeroing the others, putting back the others.

C on the CPU (kernels.c), Triton on CUDA, torch ops anywhere give the same. The C is there because torch's own ways with
bool masks are slow on the CPU.

Shape suffixes: N entries, flattened.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gmt.masking.counting import as_bits
from gmt.masking.native import WIDTHS, has_triton, library
from gmt.masking.parameters import Ranked
from gmt.masking.rule import LARGEST_BITS, Selection
from gmt.masking.signals import DRAW, Row


def kept(score_N: Tensor, selection: Selection) -> Tensor:
    """Which entries stay, as bool of shape [N].

    Args:
        score_N: contiguous; float32, bfloat16, float16, or int32 bits.
        selection: between which bounds.
    """
    if has_triton(score_N.device):
        from gmt.masking.triton_kernels import keep_inside

        return keep_inside(score_N, selection.lowest, selection.highest)
    native = library() if score_N.device.type == "cpu" else None
    if native is None or score_N.dtype == torch.float16:
        return selection.keeps(as_bits(score_N))
    keep_N = torch.empty(len(score_N), dtype=torch.bool)
    width = 8 * score_N.element_size()
    native.keep_inside(score_N.data_ptr(), len(score_N), width, selection.lowest, selection.highest, keep_N.data_ptr())
    return keep_N


def keep_mask(r: Ranked, row: Row, selection: Selection) -> Tensor:
    """Which entries stay, bool of shape [N]."""
    keep_N = torch.empty(len(r.gradient_N), dtype=torch.bool, device=r.gradient_N.device)
    for part in r.stretches(row):
        keep_N[part] = kept(row.score(r, part), selection)
    return keep_N


def zero_masked_each_(every: Sequence[Ranked], row: Row, selections: Mapping[str, Selection]) -> None:
    """Zeroes the entries of each gradient that do not stay, in place; together on a GPU, if no score is computed."""
    is_known = row.name == "gradient" or DRAW in row.needs
    together = [r for r in every if is_known and has_triton(r.gradient_N.device)]
    if together:
        from gmt.masking.triton_tables import zero_outside

        zero_outside([(r.gradient_N, r.draw(row), selections[r.name]) for r in together])
    names = {r.name for r in together}
    for r in every:
        if r.name not in names:
            zero_masked_(r, row, selections[r.name])


def zero_masked_(r: Ranked, row: Row, selection: Selection) -> None:
    """Zeroes what does not stay, in place."""
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
        zero_unkept_(g_N[part], kept(row.score(r, part), selection))


def zero_unkept_(x_N: Tensor, keep_N: Tensor) -> None:
    """Zeroes, in place, the entries of a contiguous float tensor that are not kept."""
    if (native := _native(x_N, keep_N)) is not None:
        native.zero_unkept(x_N.data_ptr(), len(x_N), 8 * x_N.element_size(), keep_N.data_ptr())
    else:
        x_N.mul_(keep_N)


def restore_unkept_(now: Tensor, before: Tensor, keep_N: Tensor) -> None:
    """Makes the entries of `now` that are not kept those of `before`, in place; both of one shape and dtype."""
    if before.is_contiguous() and (native := _native(now, keep_N)) is not None:
        width = 8 * now.element_size()
        native.restore_unkept(now.data_ptr(), before.data_ptr(), now.numel(), width, keep_N.data_ptr())
    elif now.numel():
        torch.where(keep_N.view(now.shape), now, before, out=now)


def _native(x: Tensor, keep_N: Tensor):  # type: ignore[no-untyped-def]  # a ctypes library has no type of its own
    is_known = x.device.type == "cpu" and x.is_contiguous() and keep_N.is_contiguous() and x.element_size() in WIDTHS
    return library() if is_known else None
