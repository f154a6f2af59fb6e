"""The similarity of two models' outputs up to a rotation, from sums over tokens.

Shape suffixes: N tokens, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_SUMS = 6  # matrices of D x D in float64
_ROUNDING = 1e-6  # outputs that vary by less than this share of their size vary by float32 rounding


class CrossProducts:
    """The sums of x x^T, y y^T and x y^T over tokens, in float64, shape [D, D] each.

    Args:
        num_features: D.
        device: the device of the sums.
    """

    def __init__(self, num_features: int, device: torch.device):
        self.xx_DD, self.yy_DD, self.xy_DD = torch.zeros(
            (3, num_features, num_features), dtype=torch.float64, device=device
        )

    def add(self, x_ND: Tensor, y_ND: Tensor) -> None:
        """Add tokens; both tensors are float64."""
        self.xx_DD += x_ND.T @ x_ND
        self.yy_DD += y_ND.T @ y_ND
        self.xy_DD += x_ND.T @ y_ND


class OutputSums:
    """The outputs x of the base and y of the trained model for the same tokens, as sums over these tokens.

    Memory: 48 D^2 bytes. The sums are in float64, since each value is a small difference of large sums.

    Args:
        num_features: D.
        device: the device of the sums.
    """

    def __init__(self, num_features: int, device: torch.device):
        self._num_tokens = 0
        self._x_D, self._y_D = torch.zeros((2, num_features), dtype=torch.float64, device=device)
        self._products = CrossProducts(num_features, device)
        self._directions = CrossProducts(num_features, device)

    def add(self, x_ND: Tensor, y_ND: Tensor) -> None:
        """Add the outputs of both models for N tokens, in the same order."""
        x_ND, y_ND = x_ND.double(), y_ND.double()
        self._num_tokens += len(x_ND)
        self._x_D += x_ND.sum(dim=0)
        self._y_D += y_ND.sum(dim=0)
        self._products.add(x_ND, y_ND)
        self._directions.add(*(torch.nn.functional.normalize(z_ND, dim=1) for z_ND in (x_ND, y_ND)))

    def values(self) -> dict[str, float]:
        """Return the values below; one that is undefined is missing.

        X and Y hold a row for each token, from which the mean over tokens is subtracted. ||.|| is the Frobenius norm.

        procrustes_residual: the minimum of ||Y R - X|| / ||X|| over orthogonal R (Schoenemann, Psychometrika 1966).
        It is sqrt(||X||^2 + ||Y||^2 - 2 s) / ||X||, with s the sum of the singular values of X^T Y.
        linear_cka: ||X^T Y||^2 / (||X^T X|| ||Y^T Y||) (Kornblith et al., arXiv 1905.00414).
        cka_distance: 1 - linear_cka.
        gram_distortion: ||L - K|| / ||K||, with K and L the cosines between all pairs of outputs of the base and of
        the trained model, without subtraction of the mean. It needs no N x N matrix, since ||Z Z^T|| = ||Z^T Z||.
        """
        values = {}
        x_D, y_D = self._x_D, self._y_D
        xx_DD = self._products.xx_DD - torch.outer(x_D, x_D) / max(self._num_tokens, 1)
        yy_DD = self._products.yy_DD - torch.outer(y_D, y_D) / max(self._num_tokens, 1)
        xy_DD = self._products.xy_DD - torch.outer(x_D, y_D) / max(self._num_tokens, 1)
        if _varies(xx_DD, self._products.xx_DD):
            square = xx_DD.trace() + yy_DD.trace() - 2 * torch.linalg.svdvals(xy_DD).sum()
            values["procrustes_residual"] = float((square.clamp(min=0) / xx_DD.trace()).sqrt())
            if _varies(yy_DD, self._products.yy_DD):
                values["linear_cka"] = float(xy_DD.norm().square() / (xx_DD.norm() * yy_DD.norm()))
                values["cka_distance"] = max(1 - values["linear_cka"], 0.0)
        base, both, tuned = (getattr(self._directions, name).norm().square() for name in ("xx_DD", "xy_DD", "yy_DD"))
        if base:
            values["gram_distortion"] = float(((base + tuned - 2 * both).clamp(min=0) / base).sqrt())
        return values


def _varies(centred_DD: Tensor, products_DD: Tensor) -> bool:
    """Whether outputs vary over tokens by more than rounding."""
    return bool(centred_DD.trace() > _ROUNDING**2 * products_DD.trace())
