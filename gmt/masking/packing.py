"""Packs masks for checkpoints, eight entries to a byte."""

import torch
from torch import Tensor


def pack(mask_N: Tensor) -> Tensor:
    """Return a bool mask of shape [N] as uint8 of shape [ceil(N / 8)], with the first entry in the lowest bit."""
    padded_N = torch.nn.functional.pad(mask_N.to(torch.uint8), (0, -len(mask_N) % 8)).view(-1, 8)
    packed = torch.zeros_like(padded_N[:, 0])
    for bit in range(8):
        packed |= padded_N[:, bit] << bit
    return packed


def unpack(packed: Tensor, num: int) -> Tensor:
    """Return the mask that `pack` has packed, bool of shape [num].

    Raises:
        ValueError: the packed mask does not have the bytes of `num` entries.
    """
    if len(packed) != -(-num // 8):
        raise ValueError(f"a mask of {num} entries takes {-(-num // 8)} bytes, got {len(packed)}")
    bits = torch.stack([(packed >> bit) & 1 for bit in range(8)], dim=1)
    return bits.flatten()[:num].bool()
