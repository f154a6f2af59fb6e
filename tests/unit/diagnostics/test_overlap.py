"""Supports and their overlap where both are known."""

import pytest
import torch

from gmt.diagnostics.overlap import MaskOverlap, overlap, support
from gmt.errors import UserError

DELTA = torch.tensor([0.0, 3.0, -5.0, 1.0, 0.0, -2.0, 0.5, 0.0, 4.0, 0.0])


def where(fraction: float) -> list[int]:
    return support(DELTA, fraction).nonzero().flatten().tolist()


def test_a_support_holds_the_largest_changes_and_never_an_entry_that_stayed() -> None:
    assert where(0.2) == [2, 8]
    assert where(0.3) == [1, 2, 8]
    assert where(0.9) == where(1) == [1, 2, 3, 5, 6, 8]


def test_ties_at_the_threshold_are_all_in() -> None:
    assert support(torch.tensor([1.0, -2.0, 2.0, 2.0, 0.5]), 0.2).tolist() == [False, True, True, True, False]


def test_the_same_support_overlaps_wholly_and_disjoint_ones_not_at_all() -> None:
    some = DELTA != 0
    assert overlap(some, some)["jaccard"] == 1
    assert overlap(some, ~some)["jaccard"] == 0
    assert overlap(~some & some, ~some & some) == {}


def test_random_supports_overlap_by_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.rand(200_000, generator=generator) < p for p in (0.1, 0.3))
    found = overlap(one, other)
    assert found["jaccard"] == pytest.approx(found["by_chance"], rel=0.05)
    assert found["by_chance"] == pytest.approx(0.03 / 0.37, rel=0.02)


@pytest.mark.parametrize("fraction", [0, 1.1, "x"])
def test_a_fraction_is_in_its_range(fraction: object) -> None:
    with pytest.raises(UserError, match=r"diagnostic\.fraction must lie in \(0, 1\]"):
        MaskOverlap(name="x", fraction=fraction)  # type: ignore[arg-type]
