"""Sparse deltas: the entries in which a tuned model differs from its base, with the tuned values.

A delta stores tuned values and not differences, so that applying it gives the tuned weights bit for bit in every dtype.
It identifies its base by a hash of all the base's parameters, since a base that differs anywhere, even outside the
delta's entries, would give another model. Buffers are ignored. Tied parameters have one name.

Shape suffixes: N entries of a tensor, flattened; K entries of it that a delta changes; U entries that any of several
deltas changes; S entries of these deltas in all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gmt.masking.bits import bits_of, weights_sha256
from gmt.masking.parameters import flat, names_of
from gmt.masking.sharding import is_sharded

Weights = nn.Module | Mapping[str, Tensor]
_INT32_ENTRIES = 1 << 31


@dataclass(frozen=True, kw_only=True)
class TensorDelta:
    """The changed entries of one tensor.

    Args:
        indices_K: the entries' indices in the flattened tensor, ascending; int32 for a tensor below 2^31 entries, else
            int64.
        values_K: the entries' tuned values, in the tensor's dtype.

    Raises:
        ValueError: the indices are not ascending numbers from 0 on, or the number of values differs from theirs.
    """

    indices_K: Tensor
    values_K: Tensor

    def __post_init__(self) -> None:
        indices, values = self.indices_K, self.values_K
        if indices.dtype not in (torch.int32, torch.int64) or indices.ndim != 1 or indices.shape != values.shape:
            raise ValueError(
                f"a delta needs one value for each of its int32 or int64 indices, got {values.dtype} of shape "
                f"{tuple(values.shape)} for {indices.dtype} of shape {tuple(indices.shape)}"
            )
        if len(indices) and (int(indices[0]) < 0 or not bool((indices[1:] > indices[:-1]).all())):
            raise ValueError("the indices of a delta must ascend from at least 0")


@dataclass(frozen=True, kw_only=True)
class SparseDelta:
    """The changed entries of a model.

    Args:
        tensors: the changes by the parameter's name; unchanged parameters are left out.
        base_sha256: the hash of the weights that the delta is applied to.
    """

    tensors: Mapping[str, TensorDelta]
    base_sha256: str

    @property
    def num_entries(self) -> int:
        """The number of changed entries."""
        return sum(len(delta.indices_K) for delta in self.tensors.values())


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A delta composed of several, with the number of their conflicts.

    Args:
        delta: the composed delta, over the same base.
        num_conflicts: the number of entries that the deltas change to different values.
    """

    delta: SparseDelta
    num_conflicts: int


def index_dtype(num_entries: int) -> torch.dtype:
    """Return the dtype of indices into a tensor."""
    return torch.int32 if num_entries < _INT32_ENTRIES else torch.int64


def changed_entries(tuned: Tensor, base: Tensor) -> Tensor:
    """Return whether the bits of each entry differ, shape [N]; both tensors must have one shape and dtype."""
    return bits_of(flat(tuned.detach())) != bits_of(flat(base.detach())).to(tuned.device)


def tensor_delta(tuned: Tensor, base: Tensor) -> TensorDelta:
    """Return the entries of a tensor whose bits differ from the base's; both must have one shape and dtype."""
    tuned_N = flat(tuned.detach())
    indices_K = changed_entries(tuned, base).nonzero().view(-1)
    return TensorDelta(indices_K=indices_K.to(index_dtype(len(tuned_N))), values_K=tuned_N[indices_K])


def sparse_delta(model: Weights, base: Weights) -> SparseDelta:
    """Return the entries in which a tuned model differs from its base.

    Args:
        model: the tuned model, or its parameters by name.
        base: the model that was tuned, or its parameters by name, in the dtypes of the tuned one.

    Raises:
        ValueError: the two differ in a parameter's name, shape or dtype, or one is sharded or without weights.
    """
    tuned, original = _weights_by_name(model), _weights_by_name(base)
    _check_alike(tuned, original)
    deltas = {name: tensor_delta(tuned[name], original[name]) for name in tuned}
    return SparseDelta(
        tensors={name: delta for name, delta in deltas.items() if len(delta.indices_K)},
        base_sha256=weights_sha256(original),
    )


@torch.no_grad()
def apply_delta(model: nn.Module, delta: SparseDelta) -> SparseDelta:
    """Put a delta's values into a model, in place.

    Args:
        model: the delta's base, in the dtypes of the delta.
        delta: the changed entries.

    Returns:
        The delta that reverts this one: applied next, it restores the model's former weights bit for bit.

    Raises:
        ValueError: the model is not the delta's base, or it is sharded or without weights; nothing is changed then.
    """
    weights = _weights_by_name(model)
    _check_fits(delta, weights)
    if (sha256 := weights_sha256(weights)) != delta.base_sha256:
        raise ValueError(
            f"the delta belongs to a base with the SHA-256 {delta.base_sha256[:16]}..., and the model's weights have "
            f"{sha256[:16]}...: load the base that was tuned, as it was before any other delta"
        )
    former = {name: _replaced(weights[name], part) for name, part in delta.tensors.items()}
    return SparseDelta(tensors=former, base_sha256=weights_sha256(weights))


def compose_deltas(deltas: Sequence[SparseDelta], *, add_onto: Weights | None = None) -> Composition:
    """Return the union of several deltas over one base.

    Args:
        deltas: at least one delta.
        add_onto: None: conflicts are refused, that is, entries that the deltas change to different values. The base of
            the deltas: an entry that more than one delta changes gets the base's value plus the sum of the deltas'
            differences from it, as in LT-SFT (Ansell et al., arXiv 2110.07560, Section 3.3); the sum is computed in
            float32 and rounded once.

    Raises:
        ValueError: `deltas` is empty, the deltas belong to different bases or have different dtypes, `add_onto` is not
            their base, or there are conflicts and `add_onto` is None.
    """
    shas = list(dict.fromkeys(delta.base_sha256 for delta in deltas))
    if len(shas) != 1:
        got = ", ".join(f"{sha256[:16]}..." for sha256 in shas) or "no delta"
        raise ValueError(f"deltas that are composed must belong to one base, got {got}")
    base = None if add_onto is None else _weights_by_name(add_onto)
    if base is not None and (sha256 := weights_sha256(base)) != shas[0]:
        raise ValueError(f"add_onto must be the deltas' base {shas[0][:16]}..., got {sha256[:16]}...")
    names = dict.fromkeys(name for delta in deltas for name in delta.tensors)
    parts = {name: [delta.tensors[name] for delta in deltas if name in delta.tensors] for name in names}
    composed = {name: _composed(name, parts[name], None if base is None else base[name]) for name in names}
    conflicts = {name: count for name, (_, count) in composed.items() if count}
    if conflicts and base is None:
        first, count = next(iter(conflicts.items()))
        raise ValueError(
            f"the deltas change {sum(conflicts.values()):,} entries of {len(conflicts)} tensors to different values, "
            f"{count:,} of them in {first}: add_onto=base adds their differences"
        )
    delta = SparseDelta(tensors={name: part for name, (part, _) in composed.items()}, base_sha256=shas[0])
    return Composition(delta=delta, num_conflicts=sum(conflicts.values()))


def _composed(name: str, parts: Sequence[TensorDelta], base: Tensor | None) -> tuple[TensorDelta, int]:
    """Return the union of the deltas of one tensor, and the number of conflicts."""
    if len(dtypes := {part.values_K.dtype for part in parts}) > 1:
        raise ValueError(f"deltas that are composed must have one dtype, got {dtypes} for {name}")
    order_S = torch.cat([part.indices_K for part in parts]).argsort(stable=True)
    indices_S = torch.cat([part.indices_K for part in parts])[order_S]
    values_S = torch.cat([part.values_K for part in parts])[order_S]
    indices_U, place_S, count_U = torch.unique_consecutive(indices_S, return_inverse=True, return_counts=True)
    values_U = values_S[count_U.cumsum(0) - count_U]  # of the first delta that changes the entry
    is_conflict_U = torch.zeros(len(indices_U), dtype=torch.bool, device=indices_U.device)
    is_conflict_U[place_S[bits_of(values_S) != bits_of(values_U)[place_S]]] = True
    if base is not None:
        wide = torch.promote_types(values_U.dtype, torch.float32)
        base_U = flat(base.detach())[indices_U].to(values_U.device, wide)
        sum_U = torch.zeros_like(base_U).index_add_(0, place_S, values_S.to(wide) - base_U[place_S])
        values_U = torch.where(count_U > 1, (base_U + sum_U).to(values_U.dtype), values_U)
    return TensorDelta(indices_K=indices_U, values_K=values_U), int(is_conflict_U.sum())


def _replaced(tensor: Tensor, part: TensorDelta) -> TensorDelta:
    """Put a delta's values into a tensor, in place, and return the delta with the former values."""
    tensor_N, indices_K = flat(tensor), part.indices_K.to(tensor.device)
    former_K = tensor_N[indices_K]
    tensor_N[indices_K] = part.values_K.to(tensor.device)
    if not tensor.is_contiguous():  # then `tensor_N` is a copy
        tensor.copy_(tensor_N.view(tensor.shape))
    return TensorDelta(indices_K=indices_K, values_K=former_K)


def _weights_by_name(weights: Weights) -> Mapping[str, Tensor]:
    if not isinstance(weights, nn.Module):
        return weights
    named = {name: parameter.detach() for parameter, name in names_of(weights).items()}
    for name, tensor in named.items():
        if is_sharded(tensor) or tensor.is_meta:
            what = "sharded" if is_sharded(tensor) else "on the device meta"
            raise ValueError(f"a delta needs whole weights, and {name} is {what}")
    return named


def _check_alike(tuned: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> None:
    for name in dict.fromkeys([*tuned, *base]):
        if name not in tuned or name not in base:
            raise ValueError(f"a model and its base must have the same parameters, and one of them lacks {name}")
        (shape, dtype), (base_shape, base_dtype) = ((tuple(w[name].shape), w[name].dtype) for w in (tuned, base))
        if (shape, dtype) != (base_shape, base_dtype):
            raise ValueError(
                f"a model and its base must have the same shapes and dtypes, and {name} is {dtype} of shape {shape} in "
                f"the model and {base_dtype} of shape {base_shape} in the base"
            )


def _check_fits(delta: SparseDelta, weights: Mapping[str, Tensor]) -> None:
    for name, part in delta.tensors.items():
        if name not in weights:
            raise ValueError(f"the delta changes {name}, which the model lacks: load the base that was tuned")
        tensor, dtype = weights[name], part.values_K.dtype
        if tensor.dtype != dtype:
            raise ValueError(f"the delta holds {name} in {dtype}, and the model in {tensor.dtype}: load it in {dtype}")
        if len(part.indices_K) and int(part.indices_K[-1]) >= tensor.numel():
            raise ValueError(
                f"the delta changes entry {int(part.indices_K[-1])} of {name}, which has {tensor.numel()} entries in "
                "the model: load the base that was tuned"
            )
