"""Singular values of a matrix and summaries of them. Pure functions of tensors.

Shape suffixes: M, N sides of a matrix; R = min(M, N) singular values.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 1 << 14  # the number of rows that are converted to float64 at once


def singular_values(matrix_MN: Tensor) -> Tensor:
    """Return the singular values, largest first, float64, shape [R].

    The singular values are the square roots of the eigenvalues of the smaller Gram matrix, in float64. They take a
    fraction of the time of a singular value decomposition, and are exact to about 1e-8 of the largest one. The memory
    grows with the square of the shorter side only, so that an embedding of 128,000 rows fits.
    """
    tall = matrix_MN if matrix_MN.shape[0] >= matrix_MN.shape[1] else matrix_MN.T
    gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64, device=tall.device)
    for block in torch.split(tall, _BLOCK):
        rows = block.double()
        gram += rows.T @ rows
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues.clamp(min=0).sqrt().flip(0)


def effective_rank(sigma_R: Tensor) -> float:
    """Return exp of the entropy of the singular values' shares (Roy and Vetterli, EUSIPCO 2007): 1 for a matrix of rank
    1, R for a matrix with equal singular values.

    Args:
        sigma_R: singular values, largest first; the first one must be above 0.
    """
    share_R = sigma_R / sigma_R.sum()
    return float(torch.special.entr(share_R).sum().exp())


def stable_rank(sigma_R: Tensor) -> float:
    """Return the squared Frobenius norm over the squared largest singular value; at most the rank."""
    return float((sigma_R / sigma_R[0]).square().sum())
