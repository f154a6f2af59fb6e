"""Sharded tensors: torch's DTensor, as FSDP2 and tensor parallelism create it.

A selection works on each process's part of a tensor and adds up counts; gradients are never gathered. Imports nothing
of torch.distributed that the program has not imported already.
"""

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ProcessGroups:
    """The process groups over which a tensor is sharded; a sum over each in turn is the sum over all parts."""

    groups: tuple[Any, ...]

    def sum_(self, counts: Tensor) -> None:
        """Add up `counts` over all processes of the groups, in place; each of them must call this."""
        for group in self.groups:
            torch.distributed.all_reduce(counts, group=group)


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, which shares its memory; a tensor that is not sharded itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def shards_of(tensor: Tensor) -> ProcessGroups | None:
    """Return the processes over which a tensor is sharded; None if this process holds it whole.

    Raises:
        ValueError: the tensor is only this process's part of a sum over processes.
    """
    if not is_sharded(tensor):
        return None
    groups = []
    for dim, placement in enumerate(tensor.placements):  # type: ignore[attr-defined]
        if placement.is_partial():
            raise ValueError(
                "a gradient is only this process's part of a sum over processes: reduce it before the optimizer's step"
            )
        if not placement.is_replicate():
            groups.append(tensor.device_mesh.get_group(dim))  # type: ignore[attr-defined]
    return ProcessGroups(tuple(groups)) if groups else None


def first_index(tensor: Tensor) -> int | None:
    """Return the index, in the whole flattened tensor, of this process's first entry.

    Returns:
        None if this process's entries are not consecutive in the whole tensor.
    """
    if not is_sharded(tensor):
        return 0
    shardings = [(i, p) for i, p in enumerate(tensor.placements) if not p.is_replicate()]  # type: ignore[attr-defined]
    if not shardings:
        return 0
    (mesh_dim, placement), *others = shardings
    if others or type(placement).__name__ != "Shard" or placement.dim != 0:
        return None
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    rows = -(-tensor.shape[0] // mesh.size(mesh_dim))  # as torch.chunk: the last parts may be shorter
    first_row: int = min(rows * mesh.get_local_rank(mesh_dim), tensor.shape[0])
    return first_row * tensor.shape[1:].numel()
