"""Intruder dimensions: leading singular vectors of trained matrices that the base does not have.

Shuttleworth et al., "LoRA vs Full Fine-tuning: An Illusion of Equivalence", arXiv 2410.21228, Section 3.

Shape suffixes: M, N sides of a matrix; R its singular values; K leading singular vectors of the trained matrix.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmt import settings
from gmt.diagnostics.protocol import Row, Shown

if TYPE_CHECKING:
    from torch import Tensor

    from gmt.diagnostics.finished import FinishedRun


@dataclass(frozen=True, kw_only=True)
class IntruderDimensions:
    """Intruders of every matrix in a layer. The trained matrix has singular vectors y_j, largest singular value first;
    the base's matrix has x_i. Rows:

    intruders: the number of the first y_j with a similarity below `threshold`.
    intruders_by_vector: this number with `gap` 0, as in the paper.
    least_similarity: the smallest similarity of the first y_j.
    least_gap: the smallest relative gap between neighbours of the base's first singular values.

    In the paper, the similarity of y_j is the largest |cos(y_j, x_i)| over all i. Singular vectors of (nearly) equal
    singular values may turn freely within their subspace, and then differ although the matrix does not. Departure: the
    similarity therefore compares y_j with the subspace of all x whose singular value lies within `gap` of that of x_i.
    The base's vectors with singular value 0 are arbitrary and ignored.

    Args:
        name: the diagnostic's name in tables.
        num_vectors: the number of leading y_j to compare; the paper's k.
        threshold: the similarity below which y_j is an intruder; the paper's epsilon.
        gap: the largest distance within a subspace, as a fraction of a singular value.
    """

    name: str
    num_vectors: int
    threshold: float
    gap: float

    needs_weights = True
    shown = Shown(
        title="Intruder dimensions",
        panels={
            "intruders": "intruders of a matrix",
            "least_similarity": "least similarity to the base's vectors",
        },
    )

    def __post_init__(self) -> None:
        settings.integer("diagnostic.num_vectors", self.num_vectors, low=1)
        settings.number("diagnostic.threshold", self.threshold, "must lie in (0, 1)", low=0, high=1, open_low=True)
        settings.number("diagnostic.gap", self.gap, "must lie in [0, 1)", low=0, high=1)

    def rows(self, run: FinishedRun) -> Iterable[Row]:
        """Compare the matrices one after the other."""
        from gmt.diagnostics.changes import changes

        for change in changes(run):
            if change.layer is None or change.base.ndim != 2:
                continue
            for name, value in self.compare(change.base, change.tuned).items():
                yield Row(layer=change.layer, matrix=change.matrix, name=name, value=value)

    def compare(self, base_MN: Tensor, tuned_MN: Tensor) -> dict[str, float]:
        """Return the values of one matrix; empty if either matrix is 0."""
        import torch

        if torch.equal(base_MN, tuned_MN):
            return {"intruders": 0.0, "intruders_by_vector": 0.0, "least_similarity": 1.0}
        (x_MR, sigma_R), (y_MR, _) = _vectors(base_MN), _vectors(tuned_MN)
        if not (len(sigma_R) and y_MR.shape[1]):
            return {}
        y_MK, first = y_MR[:, : self.num_vectors], sigma_R[: self.num_vectors + 1]
        in_subspaces_K = similarity(y_MK, x_MR, sigma_R, self.gap)
        by_vector_K = similarity(y_MK, x_MR, sigma_R, 0.0)
        gap = {"least_gap": float(((first[:-1] - first[1:]) / first[:-1]).min())} if len(first) > 1 else {}
        return gap | {
            "intruders": float((in_subspaces_K < self.threshold).sum()),
            "intruders_by_vector": float((by_vector_K < self.threshold).sum()),
            "least_similarity": float(in_subspaces_K.min()),
        }


def similarity(y_MK: Tensor, x_MR: Tensor, sigma_R: Tensor, gap: float) -> Tensor:
    """Return the norm of each y's projection onto the best of the base's subspaces, in [0, 1], shape [K].

    Args:
        y_MK: unit vectors.
        x_MR: the base's singular vectors.
        sigma_R: the base's singular values, largest first, all above 0.
        gap: the subspace of x_i is spanned by all x whose singular value lies within `gap * sigma_i` of sigma_i.
    """
    import torch

    share_RK = (x_MR.T @ y_MK).square()
    sum_RK = torch.nn.functional.pad(share_RK.cumsum(dim=0), (0, 0, 1, 0))
    rising_R = -sigma_R
    first = torch.searchsorted(rising_R, rising_R * (1 + gap))
    end = torch.searchsorted(rising_R, rising_R * (1 - gap), right=True)
    return (sum_RK[end] - sum_RK[first]).amax(dim=0).clamp(0, 1).sqrt()


def _vectors(matrix_MN: Tensor) -> tuple[Tensor, Tensor]:
    """Return left singular vectors and singular values above the rounding error, float64, largest first."""
    import torch

    u_MR, sigma_R, _ = torch.linalg.svd(matrix_MN.float(), full_matrices=False)
    smallest = sigma_R[0] * max(matrix_MN.shape) * torch.finfo(torch.float32).eps
    number = int((sigma_R > smallest).sum())
    return u_MR[:, :number].double(), sigma_R[:number].double()
