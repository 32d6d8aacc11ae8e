"""Noisy linear imputation (Rong et al. 2022): removed pixels as weighted means of their neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DIRECT, DIAGONAL = 1 / 6, 1 / 12
"""The weights of the four direct and of the four diagonal neighbours; they sum to 1."""
TOLERANCE = 1e-4
MOST_ITERATIONS = 500
COARSEST = 4


def imputed(x: Tensor, removed: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Images in which every removed pixel is the weighted mean of its neighbours, removed ones among them.

        x_i = sum_j w_ij x_j / sum_j w_ij    for each removed pixel i, over its eight neighbours j inside the image,

    w = 1/6 for direct and 1/12 for diagonal neighbours: a sparse, symmetric and positive definite linear system, as
    long as one pixel is left. It is solved by conjugate gradients, from a start that fills coarse holes with coarse
    means.

    Args:
        x: (N, C, H, W); where pixels are removed, its values do not count.
        removed: bool (N, H, W), at least one pixel of each image left.
        tolerance: of the residual, relative to the right-hand side.

    Returns:
        (N, C, H, W), of the dtype of `x`, the pixels that are left as they were.
    """
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    hole = removed.unsqueeze(1).to(precise)
    known = precise * (1 - hole)
    reach = _neighbours(torch.ones_like(hole))

    def A(v: Tensor) -> Tensor:  # noqa: N802 - the system's matrix
        return hole * (reach * v - _neighbours(v))

    b = hole * _neighbours(known)
    v = hole * _pyramid(known, 1 - hole)
    # conjugate gradients, each channel of each image for itself
    r = b - A(v)
    p, rr = r, _dot(r, r)
    enough = tolerance**2 * _dot(b, b)
    for _ in range(MOST_ITERATIONS):
        unsolved = rr > enough
        if not bool(unsolved.any()):
            break
        Ap = A(p)
        # what is solved stays as it is, so that no image depends on how long the others take
        a = torch.where(unsolved, rr / _dot(p, Ap).clamp_min(torch.finfo(p.dtype).tiny), 0)
        v = v + a * p
        r = r - a * Ap
        before, rr = rr, _dot(r, r)
        p = r + rr / before.clamp_min(torch.finfo(p.dtype).tiny) * p
    return torch.where(removed.unsqueeze(1), v.to(x.dtype), x)


def _neighbours(v: Tensor) -> Tensor:
    """sum_j w_ij v_j over the neighbours inside the image."""
    wide = F.pad(v, (1, 1, 1, 1))
    rows = wide[:, :, :-2] + wide[:, :, 2:]
    middle = wide[:, :, 1:-1]
    direct = rows[..., 1:-1] + middle[..., :-2] + middle[..., 2:]
    diagonal = rows[..., :-2] + rows[..., 2:]
    return DIRECT * direct + DIAGONAL * diagonal


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((2, 3), keepdim=True)


def _pyramid(known: Tensor, weight: Tensor) -> Tensor:
    """A first guess: each hole as the mean of what is known around it, at the finest scale that knows something."""
    if min(known.shape[2:]) <= COARSEST:
        total = weight.sum((2, 3), keepdim=True).clamp_min(1e-6)
        return (known.sum((2, 3), keepdim=True) / total).expand_as(known)
    share, mean = (F.avg_pool2d(of, 2, ceil_mode=True, count_include_pad=False) for of in (weight, known))
    mean = mean / share.clamp_min(1e-6)
    there = (share > 0).to(known)
    coarse = _pyramid(mean * there, there)
    filled = torch.where(share > 0, mean, coarse)
    return F.interpolate(filled, known.shape[2:], mode="bilinear", align_corners=False)
