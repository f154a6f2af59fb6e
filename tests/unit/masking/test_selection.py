"""The selection against a full sort, and its decisions at the edges."""

import math
from fractions import Fraction

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from torch import Tensor

from gmt.masking.selection import keep_masks, kth_smallest, magnitude_bits, num_masked

FLOATS = st.floats(width=16, allow_nan=False, allow_infinity=False)  # few distinct values: many ties and zeros
VECTORS = st.integers(1, 300).flatmap(lambda n: arrays("float32", n, elements=FLOATS)).map(torch.from_numpy)
RATIOS = st.floats(0, 1, exclude_max=True)


def naive_keep(scores: list[Tensor], ratio: float) -> list[Tensor]:
    """By sorting everything."""
    everything = torch.cat([s.abs().float().flatten() for s in scores]).sort().values
    threshold = everything[math.floor(Fraction(repr(ratio)) * len(everything))]
    return [(s.abs().float() >= threshold) & (s != 0) for s in scores]


@given(VECTORS, st.data())
def test_kth_smallest_equals_a_full_sort(x: Tensor, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(x) - 1))
    expected = magnitude_bits(x).sort().values[k]
    assert kth_smallest([magnitude_bits(x)], k) == int(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@settings(max_examples=60)
@given(x=VECTORS, ratio=RATIOS)
def test_keep_mask_equals_a_full_sorts(dtype: torch.dtype, x: Tensor, ratio: float) -> None:
    x = x.to(dtype)
    x[x.isinf()] = 1
    assert torch.equal(keep_masks([x], ratio)[0], naive_keep([x], ratio)[0])


@given(st.lists(VECTORS, min_size=1, max_size=4), RATIOS)
def test_one_threshold_over_several_tensors_equals_a_full_sorts(xs: list[Tensor], ratio: float) -> None:
    for got, expected in zip(keep_masks(xs, ratio), naive_keep(xs, ratio), strict=True):
        assert torch.equal(got, expected)


@given(st.integers(1, 10_000), RATIOS)
def test_distinct_magnitudes_mask_exactly_the_ratio(n: int, ratio: float) -> None:
    x = torch.randperm(n, generator=torch.Generator().manual_seed(n)).float() + 1
    assert int((~keep_masks([x], ratio)[0]).sum()) == num_masked(ratio, n)


def test_the_ratio_is_the_decimal_that_was_written() -> None:
    assert num_masked(0.29, 100) == 29
    assert num_masked(0.7, 10) == 7


@given(st.integers(1, 10**9), RATIOS)
def test_something_always_stays(n: int, ratio: float) -> None:
    assert 0 <= num_masked(ratio, n) < n


def test_zeros_are_never_kept_even_if_they_exceed_the_masked_share() -> None:
    keep = keep_masks([torch.tensor([0.0, 0.0, 0.0, 1.0, -0.0])], 0.2)[0]
    assert keep.tolist() == [False, False, False, True, False]


def test_ties_at_the_threshold_all_stay() -> None:
    assert keep_masks([torch.tensor([1.0, -2.0, 2.0, 2.0])], 0.5)[0].tolist() == [False, True, True, True]


def test_an_empty_tensor_gives_an_empty_mask() -> None:
    assert keep_masks([torch.zeros(0, 3)], 0.5)[0].shape == (0, 3)


def test_denormals_are_ranked_like_others() -> None:
    x = torch.tensor([1e-45, 1e-40, 1e-38, 1.0])
    assert keep_masks([x], 0.5)[0].tolist() == [False, False, True, True]


def test_all_in_one_bin_is_still_exact() -> None:
    x = 1 + torch.arange(1000) * torch.finfo(torch.float32).eps
    assert int(keep_masks([x], 0.75)[0].sum()) == 250
