"""Scores by a low-rank approximation of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SVD = ("exact", "randomized")
_POWER_ITERATIONS = 2  # as torch.svd_lowrank has it
_SEED = 0  # of a sketch, which depends on the matrix's shape alone


@dataclass(frozen=True, kw_only=True)
class LowRankWeight:
    """The value of an entry in the best approximation of its matrix at a lower rank, a `MatrixSignal` (LIFT).

    Liu et al., "LIFT the Veil for the Truth" (arXiv 2506.00772): principal weights are those that are largest after the
    matrix is cut to its first singular values.

    Args:
        rank: of the approximation, at least 1 and at most that of the smallest matrix; at full rank the score is the
            weight.
        svd: `exact` in float32, or `randomized` by a sketch of 2 * rank columns (Halko et al., arXiv 0909.4061,
            Algorithms 4.4 and 5.1), which is faster and misses small singular values.

    Raises:
        ValueError: a setting breaks its rule.
    """

    rank: int
    svd: str

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise ValueError(f"rank must be a whole number of at least 1, got {self.rank!r}")
        if self.svd not in SVD:
            raise ValueError(f"svd must be one of {', '.join(SVD)}, got {self.svd!r}")

    @property
    def reads_gradient(self) -> bool:
        """The weights alone decide."""
        return False

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless it is the shape of a matrix that may have this rank."""
        if len(shape) != 2:
            raise ValueError(f"a low rank needs a matrix, got shape {shape}, so that exclude must name it")
        if self.rank > min(shape):
            raise ValueError(f"rank must be at most {min(shape)} for a matrix of shape {shape}, got {self.rank}")

    def score_matrix(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """Return the approximation, float32."""
        import torch

        weight = weight.float()
        if self.svd == "exact":
            left, values, right = torch.linalg.svd(weight, full_matrices=False)
        else:
            left, values, right = _sketched(weight, min(2 * self.rank, *weight.shape))
        approximation: Tensor = (left[:, : self.rank] * values[: self.rank]) @ right[: self.rank]
        return approximation


def _sketched(matrix: Tensor, num_columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return factors of a matrix's projection onto a random sketch of its columns' space; no generator is touched."""
    import torch

    generator = torch.Generator().manual_seed(_SEED)
    sketch = torch.randn(matrix.shape[1], num_columns, generator=generator).to(matrix.device)
    basis = torch.linalg.qr(matrix @ sketch).Q
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.t() @ basis).Q).Q
    left, values, right = torch.linalg.svd(basis.t() @ matrix, full_matrices=False)
    return basis @ left, values, right
