"""A linear model of what the parts of an image do, fitted to the values of images of which parts are taken away."""

from __future__ import annotations

import torch
from torch import Tensor

ALONE = 1e-6
"""How near to 1 the leverage of an observation is that decides a coefficient alone."""


def fitted(z: Tensor, y: Tensor, weights: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor] | None:
    """Weighted ridge regression, b = (Z'WZ + P)^-1 Z'Wy, and the standard errors of b.

    The errors are those of White (1980), which hold whatever the spread of y at each z, with residuals divided by one
    less their leverage (HC3), since there may be few more observations than coefficients. An observation that decides
    a coefficient alone has no residual; it is taken to be as far off as the others are.

    Args:
        z: (n, d), the observations.
        y: (n, K).
        weights: (n,).
        penalty: (d, d), P.

    Returns:
        (K, d) each; None where the observations do not determine the coefficients.
    """
    weighted = z * weights[:, None]
    gram = weighted.T @ z + penalty
    if int(torch.linalg.matrix_rank(gram, hermitian=True)) < len(gram):
        return None
    inverse = torch.linalg.inv(gram)
    b = inverse @ (weighted.T @ y)  # (d, K)
    leverage = ((z @ inverse) * weighted).sum(1)
    left = (1 - leverage)[:, None]
    alone = left < ALONE
    residuals = ((y - z @ b) / left).masked_fill(alone, 0)
    of_others = residuals.square().sum(0) / (~alone).sum().clamp_min(1)
    residuals = torch.where(alone, of_others.sqrt(), residuals)
    influence = weighted @ inverse  # (n, d)
    variances = residuals.square().T @ influence.square()
    return b.T, variances.sqrt()
