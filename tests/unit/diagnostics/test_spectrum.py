"""Spectra against a full singular value decomposition, and ranks where they are known."""

import pytest
import torch

from gmt.diagnostics import spectrum
from gmt.diagnostics.spectrum import effective_rank, singular_values, stable_rank


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6), (40, 3), (1, 4)])
def test_singular_values_are_those_of_a_decomposition(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum, "_BLOCK", 3)
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(singular_values(matrix), torch.linalg.svdvals(matrix.double()), rtol=1e-6, atol=1e-6)


def test_a_rank_one_matrix_has_effective_and_stable_rank_one() -> None:
    sigma = singular_values(torch.outer(torch.arange(1.0, 9.0), torch.arange(1.0, 5.0)))
    assert effective_rank(sigma) == pytest.approx(1, abs=1e-5)
    assert stable_rank(sigma) == pytest.approx(1)


def test_equal_singular_values_give_the_full_rank() -> None:
    orthogonal = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2))).Q
    sigma = singular_values(3 * orthogonal)
    assert effective_rank(sigma) == pytest.approx(6, rel=1e-5)
    assert stable_rank(sigma) == pytest.approx(6, rel=1e-5)
