"""The hash that random masks are drawn by."""

import pytest
import torch

from gmt.masking.random_bits import hashed, keys, random_bits

CPU = torch.device("cpu")
KEY = keys(1, 2, "weight")

pytestmark = pytest.mark.usefixtures("counted_by")


def bits(num: int, key: tuple[int, int] = KEY, start: int = 0) -> torch.Tensor:
    return random_bits(num, key, start=start, device=CPU)


def test_a_part_holds_what_the_whole_holds_there() -> None:
    whole = bits(1000)
    assert torch.equal(bits(100, start=317), whole[317:417])


def test_c_and_torch_ops_agree() -> None:
    start = (1 << 31) - 1001
    index = torch.arange(start, start + 1000, dtype=torch.int64).to(torch.int32)
    assert torch.equal(bits(1000, start=start), hashed(index, KEY))


def test_all_are_distinct_and_none_negative() -> None:
    drawn = bits(1 << 20)
    assert len(drawn.unique()) == 1 << 20
    assert int(drawn.min()) >= 0


@pytest.mark.parametrize("other", [keys(2, 2, "weight"), keys(1, 3, "weight"), keys(1, 2, "bias")])
def test_seed_step_and_name_change_the_draw(other: tuple[int, int]) -> None:
    n = 1 << 16
    kept, kept_by_other = bits(n) < 1 << 30, bits(n, other) < 1 << 30
    both = int((kept & kept_by_other).sum())
    assert abs(both - n / 4) < 5 * (n * 3 / 16) ** 0.5  # five standard deviations of independent draws


def test_it_is_uniform_over_values_and_neighbours() -> None:
    n, cells = 1 << 20, 64
    drawn = bits(n)
    for counts in (
        torch.bincount(drawn >> 25, minlength=cells),
        torch.bincount((drawn[:-1] >> 28) * 8 + (drawn[1:] >> 28), minlength=cells),
        torch.bincount(drawn & 63, minlength=cells),
    ):
        chi2 = float(((counts - n / cells) ** 2 / (n / cells)).sum())
        assert chi2 < 127  # the 1e-5 tail of chi-squared with 63 degrees of freedom is at 128
