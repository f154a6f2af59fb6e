"""Writes safetensors files of any size with one tensor in memory; safetensors' own writer needs all tensors at once.

The format (https://github.com/huggingface/safetensors#format): the header's length in 8 bytes, the header as JSON, the
tensors' bytes without gaps.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from gmt.masking.bits import bytes_of

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
}
_ALIGNMENT = 8


def write_vectors(
    path: Path,
    sizes: Mapping[str, tuple[torch.dtype, int]],
    vector_of: Callable[[str], Tensor],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file of 1-D tensors, and wait until it is on the disk.

    Args:
        path: the file.
        sizes: the dtype and the number of entries of each tensor, by name.
        vector_of: returns the tensor of a name; called once for each name, in order of falling bytes per entry.
        metadata: texts for the header.
    """
    names = sorted(sizes, key=lambda name: (-sizes[name][0].itemsize, name))  # this order aligns every tensor
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        dtype, num_entries = sizes[name]
        start, end = end, end + dtype.itemsize * num_entries
        header[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": [num_entries], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            vector = vector_of(name)
            assert (vector.dtype, tuple(vector.shape)) == (sizes[name][0], (sizes[name][1],)), name
            file.write(bytes_of(vector))
        file.flush()
        os.fsync(file.fileno())
