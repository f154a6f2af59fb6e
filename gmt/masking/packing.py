"""Masks in a checkpoint: eight entries to a byte."""

import torch
from torch import Tensor


def pack(mask_N: Tensor) -> Tensor:
    """Packs bool of shape [N] into uint8 of shape [ceil(N / 8)], the first entry in the lowest bit."""
    padded_N = torch.nn.functional.pad(mask_N.to(torch.uint8), (0, -len(mask_N) % 8)).view(-1, 8)
    packed = torch.zeros_like(padded_N[:, 0])
    for bit in range(8):
        packed |= padded_N[:, bit] << bit
    return packed


def unpack(packed: Tensor, num: int) -> Tensor:
    """Unpacks the first `num` entries of what `pack` gives, as bool.

    Raises:
        ValueError: they are not as many as were packed.
    """
    if len(packed) != -(-num // 8):
        raise ValueError(f"a mask of {num} entries takes {-(-num // 8)} bytes, got {len(packed)}")
    bits = torch.stack([(packed >> bit) & 1 for bit in range(8)], dim=1)
    return bits.flatten()[:num].bool()
