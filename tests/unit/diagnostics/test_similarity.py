"""Procrustes residual, CKA and Gram distortion where they are known: planted relations, and scipy on small matrices."""

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

from gmt.diagnostics.similarity import OutputSums

N, D = 200, 12
KEYS = ("procrustes_residual", "linear_cka", "gram_distortion")


def outputs(seed: int, num_tokens: int = N, num_features: int = D) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    stretch = torch.linspace(0.1, 2, num_features, dtype=torch.float64)
    return torch.randn(num_tokens, num_features, generator=generator, dtype=torch.float64) * stretch + 1.5


def orthogonal(seed: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64)).Q


def values(x: Tensor, y: Tensor, size: int = 64) -> dict[str, float]:
    """Return the values of tokens that arrive in batches."""
    sums = OutputSums(x.shape[1], x.device)
    for x_batch, y_batch in zip(torch.split(x, size), torch.split(y, size), strict=True):
        sums.add(x_batch, y_batch)
    return sums.values()


@pytest.mark.parametrize(
    ("related", "expected"),
    [
        (lambda x: x, (0, 1, 0)),
        (lambda x: x @ orthogonal(), (0, 1, 0)),
        (lambda x: 1.25 * x, (0.25, 1, 0)),
        (lambda x: 0.5 * x @ orthogonal(), (0.5, 1, 0)),
        (lambda x: -x, (0, 1, 0)),  # a reflection is orthogonal too
    ],
    ids=["same", "rotated", "scaled", "rotated_and_scaled", "reflected"],
)
def test_planted_relations(related: object, expected: tuple[float, float, float]) -> None:
    x = outputs(1)
    found = values(x, related(x))  # type: ignore[operator]
    assert [found[key] for key in KEYS] == pytest.approx(expected, abs=1e-6)
    assert 0 <= found["cka_distance"] < 1e-6


def test_a_shift_changes_angles_only() -> None:
    x = outputs(1)
    found = values(x, x + torch.arange(D))
    assert found["procrustes_residual"] == pytest.approx(0, abs=1e-6)
    assert found["linear_cka"] == pytest.approx(1)
    assert found["gram_distortion"] > 0.1


def test_independent_outputs_have_the_cka_of_chance() -> None:
    num_tokens = 2000
    x, y = (outputs(seed, num_tokens).sub(1.5) / torch.linspace(0.1, 2, D) for seed in (1, 2))  # equally strong
    found = values(x, y)
    assert found["linear_cka"] == pytest.approx(D / (num_tokens + D), rel=0.25)  # one sigma is sqrt(2) / D = 0.12
    # nothing of Y is explained: the residual is near sqrt(1 + 1)
    assert 1.2 < found["procrustes_residual"] < 2**0.5


def test_values_equal_their_definitions() -> None:
    x, y = outputs(1), outputs(2) + 0.5 * outputs(1) @ orthogonal()
    found = values(x, y)
    X, Y = (np.asarray(z - z.mean(dim=0)) for z in (x, y))
    rotation, _ = orthogonal_procrustes(Y, X)
    residual = np.linalg.norm(Y @ rotation - X) / np.linalg.norm(X)
    assert found["procrustes_residual"] == pytest.approx(residual, rel=1e-9)
    K, L = X @ X.T, Y @ Y.T  # CKA by its definition over pairs of tokens
    assert found["linear_cka"] == pytest.approx((K * L).sum() / (np.linalg.norm(K) * np.linalg.norm(L)), rel=1e-9)
    cosines = [np.asarray(z @ z.T / torch.outer(z.norm(dim=1), z.norm(dim=1))) for z in (x, y)]
    distortion = np.linalg.norm(cosines[1] - cosines[0]) / np.linalg.norm(cosines[0])
    assert found["gram_distortion"] == pytest.approx(distortion, rel=1e-9)


def test_a_computation_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    y = torch.tensor([[0.0, 2.0], [0.0, -2.0], [1.0, 0.0], [-1.0, 0.0]])
    # X^T Y = [[0, 4], [2, 0]], X^T X = 2 I, Y^T Y = diag(2, 8): the residual is sqrt(4 + 10 - 2 * 6) / 2
    found = values(x, y)
    assert found["procrustes_residual"] == pytest.approx(2**0.5 / 2)
    assert found["linear_cka"] == pytest.approx(20 / (8**0.5 * 68**0.5))
    assert found["cka_distance"] == pytest.approx(1 - 20 / (8**0.5 * 68**0.5))
    assert found["gram_distortion"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("batch_size", [1, 7, N])
def test_batches_do_not_matter(batch_size: int) -> None:
    x, y = outputs(1), outputs(2)
    assert values(x, y, batch_size) == pytest.approx(values(x, y), rel=1e-10)


def test_values_that_are_undefined_are_missing() -> None:
    x = outputs(1)
    assert values(torch.zeros_like(x), torch.zeros_like(x)) == {}
    constant = x[:1].expand_as(x)
    assert set(values(constant, constant)) == {"gram_distortion"}
    assert set(values(x, constant)) == {"procrustes_residual", "gram_distortion"}
    assert set(values(x[:1], x[:1])) == {"gram_distortion"}
