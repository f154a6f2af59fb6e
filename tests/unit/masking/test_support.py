"""The kept entries of a tensor, by C and by torch ops."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from gmt.masking.support import stored, support_of


@pytest.mark.usefixtures("counted_by")
@given(
    st.lists(st.booleans(), min_size=1, max_size=200), st.sampled_from([torch.float32, torch.bfloat16, torch.float64])
)
def test_entries_are_gathered_and_scattered_as_by_the_mask(kept: list[bool], dtype: torch.dtype) -> None:
    keep_N, x_N = torch.tensor(kept), torch.randn(len(kept)).to(dtype)
    support = support_of(keep_N)
    x_K = support.gather(x_N)
    assert torch.equal(x_K, x_N[keep_N])
    y_N = torch.zeros_like(x_N)
    support.scatter_(y_N, x_K)
    assert torch.equal(y_N, x_N * keep_N)
    assert torch.equal(support.mask(), keep_N)
    index_S = torch.tensor([0, len(kept) - 1, len(kept) // 2])
    assert torch.equal(support.holds(index_S), keep_N[index_S])
    assert stored(support.stored, len(kept)).num_kept == support.num_kept == sum(kept)


@pytest.mark.parametrize("num_kept", [0, 1, 30, 31, 32, 33, 500, 1000])
def test_the_smaller_form_is_stored(num_kept: int) -> None:
    support = support_of(torch.arange(1000) < num_kept)
    assert support.num_bytes == min(125, 4 * num_kept)
