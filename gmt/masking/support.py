"""Supports: the kept entries of a tensor in little memory, as one bit per entry or, if that is smaller, as indices.

C on the CPU (kernels.c), Triton on CUDA and torch ops anywhere read and write the same entries, in the order of their
indices.

Shape suffixes: N entries of a tensor, flattened; K of them that are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gmt.masking.native import WIDTHS, has_triton, library
from gmt.masking.packing import pack, unpack

_BITS_OF_INDEX = 32
_LARGEST_INDEX = (1 << 31) - 1


@dataclass(frozen=True)
class Support:
    """The kept entries of a tensor.

    Args:
        stored: the mask as `pack` packs it, uint8 of shape [ceil(N / 8)]; or ascending indices, int32 of shape [K].
        num_entries: N, the number of the tensor's entries.
        num_kept: K, the number of kept entries.
    """

    stored: Tensor
    num_entries: int
    num_kept: int

    @property
    def num_bytes(self) -> int:
        """The memory of `stored` in bytes."""
        return self.stored.numel() * self.stored.element_size()

    @property
    def _has_indices(self) -> bool:
        return self.stored.dtype == torch.int32

    def mask(self) -> Tensor:
        """Return whether each entry is kept, bool of shape [N]."""
        if not self._has_indices:
            return unpack(self.stored, self.num_entries)
        keep_N = torch.zeros(self.num_entries, dtype=torch.bool, device=self.stored.device)
        keep_N[self.stored] = True
        return keep_N

    def holds(self, index_S: Tensor) -> Tensor:
        """Return which of the entries at given indices, int64 of shape [S], are kept, bool of shape [S]."""
        if not self._has_indices:
            return ((self.stored[index_S >> 3] >> (index_S & 7).to(torch.uint8)) & 1).bool()
        return torch.isin(index_S, self.stored)

    def gather(self, x_N: Tensor) -> Tensor:
        """Return a copy of the kept entries of a contiguous tensor, of shape [K]."""
        if self._has_indices:
            return x_N.index_select(0, self.stored)
        if has_triton(x_N.device):
            from gmt.masking.triton_sets import gather_set

            assert x_N.is_contiguous()
            assert len(x_N) == self.num_entries
            return gather_set(x_N, self.stored, self._starts, self.num_kept)
        if not self._is_for_c(x_N):
            return x_N[self.mask()]
        x_K = x_N.new_empty(self.num_kept)
        self._call("gather_set", x_N, x_K)
        return x_K

    def scatter_(self, x_N: Tensor, x_K: Tensor) -> None:
        """Set the kept entries of a contiguous tensor to values of its dtype, in place."""
        if self._has_indices:
            x_N[self.stored] = x_K
        elif has_triton(x_N.device):
            from gmt.masking.triton_sets import scatter_set

            assert x_N.is_contiguous()
            assert (len(x_N), x_N.dtype, len(x_K)) == (self.num_entries, x_K.dtype, self.num_kept)
            scatter_set(x_N, self.stored, self._starts, x_K.contiguous())
        elif not self._is_for_c(x_N):
            x_N[self.mask()] = x_K
        else:
            self._call("scatter_set", x_N, x_K.contiguous())

    @cached_property
    def _starts(self) -> Tensor:
        """The number of kept entries before each block of the Triton kernels, N / 512 bytes; cached when first used."""
        from gmt.masking.triton_sets import starts

        return starts(self.stored, self.num_entries, self.num_kept)

    def _is_for_c(self, x_N: Tensor) -> bool:
        return x_N.device.type == "cpu" and x_N.element_size() in WIDTHS and library() is not None

    def _call(self, name: str, x_N: Tensor, x_K: Tensor) -> None:
        assert x_N.is_contiguous()
        assert (len(x_N), x_N.dtype) == (self.num_entries, x_K.dtype)
        native = library()
        assert native is not None
        width = 8 * x_N.element_size()
        getattr(native, name)(x_N.data_ptr(), len(x_N), width, self.stored.data_ptr(), x_K.data_ptr())


def support_of(keep_N: Tensor) -> Support:
    """Return the support of a bool mask of shape [N], in the smaller of the two forms."""
    num_entries = len(keep_N)
    num_kept = int(keep_N.sum())
    if num_entries <= _LARGEST_INDEX and _BITS_OF_INDEX * num_kept < num_entries:
        return Support(keep_N.nonzero().flatten().to(torch.int32), num_entries, num_kept)
    return Support(pack(keep_N), num_entries, num_kept)


def stored(values: Tensor, num_entries: int) -> Support:
    """Return the support whose attribute `stored` has these values, e.g. after loading them from a checkpoint."""
    has_indices = values.dtype == torch.int32
    return Support(values, num_entries, len(values) if has_indices else int(unpack(values, num_entries).sum()))
