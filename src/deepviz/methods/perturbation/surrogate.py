"""A linear model of what the parts of an image do, fitted to the values of images of which parts are taken away."""

from __future__ import annotations

import torch
from torch import Tensor


def fitted(z: Tensor, y: Tensor, weights: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted ridge regression, b = (Z'WZ + P)^-1 Z'Wy, and the standard errors of b.

    The errors are those of White (1980), which hold whatever the spread of y at each z, with residuals divided by one
    less their leverage (HC3), since there may be few more observations than coefficients.

    Args:
        z: (n, d), the observations.
        y: (n, K).
        weights: (n,).
        penalty: (d, d), P.

    Returns:
        (K, d) each.
    """
    weighted = z * weights[:, None]
    inverse = torch.linalg.pinv(weighted.T @ z + penalty, hermitian=True)
    b = inverse @ (weighted.T @ y)  # (d, K)
    leverage = ((z @ inverse) * weighted).sum(1)
    residuals = (y - z @ b) / (1 - leverage).clamp_min(1e-3)[:, None]
    influence = weighted @ inverse  # (n, d)
    variances = residuals.square().T @ influence.square()
    return b.T, variances.sqrt()
