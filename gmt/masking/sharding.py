"""Tensors that are spread over processes: DTensor, as FSDP2 and tensor parallelism make them.

Selection works on the part that lies here and adds up counts; gradients are never gathered. Nothing of
torch.distributed is imported unless the program has done so.
"""

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ProcessGroups:
    """The groups of processes over which a tensor is cut; adding up over each in turn adds up over all parts."""

    groups: tuple[Any, ...]

    def sum_(self, counts: Tensor) -> None:
        """Adds up `counts` over all processes of the groups, in place; each must call it."""
        for group in self.groups:
            torch.distributed.all_reduce(counts, group=group)


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies here, sharing its memory; a tensor that is no DTensor is whole."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def shards_of(tensor: Tensor) -> ProcessGroups | None:
    """Over which processes a tensor is cut; None if it is whole here."""
    if not is_sharded(tensor):
        return None
    groups = []
    for dim, placement in enumerate(tensor.placements):  # type: ignore[attr-defined]
        if placement.is_partial():
            raise ValueError("a gradient is a partial sum of its processes': reduce it before the optimizer's step")
        if not placement.is_replicate():
            groups.append(tensor.device_mesh.get_group(dim))  # type: ignore[attr-defined]
    return ProcessGroups(tuple(groups)) if groups else None


def first_index(tensor: Tensor) -> int | None:
    """The index, in the whole tensor flattened, of the first entry here; None if what is here is no single stretch."""
    if not is_sharded(tensor):
        return 0
    cuts = [(i, p) for i, p in enumerate(tensor.placements) if not p.is_replicate()]  # type: ignore[attr-defined]
    if not cuts:
        return 0
    (mesh_dim, placement), *others = cuts
    if others or type(placement).__name__ != "Shard" or placement.dim != 0:
        return None
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    rows = -(-tensor.shape[0] // mesh.size(mesh_dim))  # Shard cuts as torch.chunk does: the last parts may be shorter
    first_row: int = min(rows * mesh.get_local_rank(mesh_dim), tensor.shape[0])
    return first_row * tensor.shape[1:].numel()
