"""Scores by a low-rank approximation of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SVD = ("exact", "randomized")
_POWER_ITERATIONS = 2  # the default of torch.svd_lowrank
_SEED = 0  # so that a sketch depends on the matrix's shape only


@dataclass(frozen=True, kw_only=True)
class LowRankWeight:
    """A `MatrixSignal` that scores an entry by its value in the best low-rank approximation of its matrix (LIFT).

    Liu et al., "LIFT the Veil for the Truth" (arXiv 2506.00772): the principal weights are the largest entries after
    the matrix is reduced to its largest singular values.

    Args:
        rank: the rank of the approximation, at least 1 and at most the smaller side of every matrix; at full rank the
            score is the weight.
        svd: `exact`, in float32; or `randomized`, by a sketch of 2 * rank columns (Halko et al., arXiv 0909.4061,
            Algorithms 4.4 and 5.1), which is faster but misses small singular values.

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
        """False: the score depends on the weights only."""
        return False

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless the shape is that of a matrix whose sides are at least `rank`."""
        if len(shape) != 2:
            raise ValueError(f"a low rank needs a matrix, got shape {shape}, so that exclude must name it")
        if self.rank > min(shape):
            raise ValueError(f"rank must be at most {min(shape)} for a matrix of shape {shape}, got {self.rank}")

    def score_matrix(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """Return the approximation of the weight, float32."""
        import torch

        weight = weight.float()
        if self.svd == "exact":
            left, values, right = torch.linalg.svd(weight, full_matrices=False)
        else:
            left, values, right = _sketched(weight, min(2 * self.rank, *weight.shape))
        approximation: Tensor = (left[:, : self.rank] * values[: self.rank]) @ right[: self.rank]
        return approximation


def _sketched(matrix: Tensor, num_columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the SVD of a matrix's projection onto a random sketch of its column space; torch's generator is unused."""
    import torch

    generator = torch.Generator().manual_seed(_SEED)
    sketch = torch.randn(matrix.shape[1], num_columns, generator=generator).to(matrix.device)
    basis = torch.linalg.qr(matrix @ sketch).Q
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.t() @ basis).Q).Q
    left, values, right = torch.linalg.svd(basis.t() @ matrix, full_matrices=False)
    return basis @ left, values, right
