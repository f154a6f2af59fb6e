"""Sparse deltas as safetensors files: for each changed parameter NAME the vectors NAME.indices and NAME.values.

The header's metadata holds the format's version, the SHA-256 of the base's weights, and the texts that the writer adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gmt.errors import UserError
from gmt.masking.deltas import SparseDelta, TensorDelta, changed_entries, index_dtype, tensor_delta
from gmt.tensor_files import write_vectors

_VERSION_KEY, _VERSION, _BASE_KEY = "gmt_delta_version", "1", "base_sha256"
_INDICES, _VALUES = ".indices", ".values"


def save_delta(delta: SparseDelta, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a delta into a file.

    Args:
        delta: the delta.
        path: the file; an existing file is replaced.
        metadata: further texts for the header, such as a run id.
    """
    vectors = {
        name: (part.indices_K.dtype, part.values_K.dtype, len(part.values_K)) for name, part in delta.tensors.items()
    }
    _write(path, vectors, lambda name: delta.tensors[name], delta.base_sha256, metadata or {})


def save_difference(
    tuned: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
    path: Path,
    *,
    base_sha256: str,
    metadata: Mapping[str, str],
    on_progress: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Write the delta between two mappings of weights; it has one tensor of each in memory at a time.

    Args:
        tuned, base: the weights by name, in the same shapes and dtypes; they may read each tensor on access.
        path: the file; an existing file is replaced.
        base_sha256: the hash of the base's weights.
        metadata: further texts for the header.
        on_progress: called each time a tensor was read; each tensor is read three times.

    Returns:
        The number of changed entries by name; unchanged tensors are left out.
    """
    vectors: dict[str, tuple[torch.dtype, torch.dtype, int]] = {}
    for name in tuned:
        tensor = tuned[name]
        if num_changed := int(changed_entries(tensor, base[name]).sum()):
            vectors[name] = (index_dtype(tensor.numel()), tensor.dtype, num_changed)
        on_progress()

    def part(name: str) -> TensorDelta:
        on_progress()
        return tensor_delta(tuned[name], base[name])

    _write(path, vectors, part, base_sha256, metadata)
    return {name: num_changed for name, (_, _, num_changed) in vectors.items()}


def load_delta(path: Path) -> SparseDelta:
    """Read a delta onto the CPU.

    Raises:
        UserError: the file can't be read, or is not a delta of the supported version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get(_VERSION_KEY) != _VERSION:
                got = metadata.get(_VERSION_KEY, "a file without a version")
                raise UserError(f"{path} must be a sparse delta of version {_VERSION}, got {got}")
            names = [key.removesuffix(_INDICES) for key in file.keys() if key.endswith(_INDICES)]  # noqa: SIM118
            tensors = {
                name: TensorDelta(indices_K=file.get_tensor(name + _INDICES), values_K=file.get_tensor(name + _VALUES))
                for name in names
            }
            return SparseDelta(tensors=tensors, base_sha256=metadata[_BASE_KEY])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} can't be read as a sparse delta: {error}") from error


def _write(
    path: Path,
    vectors: Mapping[str, tuple[torch.dtype, torch.dtype, int]],
    part_of: Callable[[str], TensorDelta],
    base_sha256: str,
    metadata: Mapping[str, str],
) -> None:
    sizes = {name + _INDICES: (dtype, num_entries) for name, (dtype, _, num_entries) in vectors.items()}
    sizes |= {name + _VALUES: (dtype, num_entries) for name, (_, dtype, num_entries) in vectors.items()}

    def vector_of(key: str) -> Tensor:
        if key.endswith(_INDICES):
            return part_of(key.removesuffix(_INDICES)).indices_K
        return part_of(key.removesuffix(_VALUES)).values_K

    format_metadata = {"format": "pt", _VERSION_KEY: _VERSION, _BASE_KEY: base_sha256}
    write_vectors(path, sizes, vector_of, {**metadata, **format_metadata})
