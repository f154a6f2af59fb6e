"""Masks in a checkpoint."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from gmt.masking.packing import pack, unpack


@given(st.lists(st.booleans(), max_size=40))
def test_what_was_packed_comes_back_from_an_eighth(mask: list[bool]) -> None:
    packed = pack(torch.tensor(mask, dtype=torch.bool))
    assert unpack(packed, len(mask)).tolist() == mask
    assert packed.dtype == torch.uint8
    assert len(packed) == -(-len(mask) // 8)


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="a mask of 20 entries takes 3 bytes, got 2"):
        unpack(torch.zeros(2, dtype=torch.uint8), 20)
