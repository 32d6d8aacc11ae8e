"""Noisy linear imputation (Rong et al. 2022): removed pixels as weighted means of their neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DIRECT, DIAGONAL = 1 / 6, 1 / 12
"""The weights of the four direct and of the four diagonal neighbours; they sum to 1."""
TOLERANCE = 1e-4
MOST_ITERATIONS = 200
COARSEST = 4


def imputed(x: Tensor, removed: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Images in which every removed pixel is the weighted mean of its neighbours, removed ones among them.

        x_i = sum_j w_ij x_j / sum_j w_ij    for each removed pixel i, over its eight neighbours j inside the image,

    w = 1/6 for direct and 1/12 for diagonal neighbours: a sparse, symmetric and positive definite linear system, as
    long as one pixel is left. It is solved by conjugate gradients, preconditioned by a multigrid cycle, so that large
    holes take hardly more iterations than small ones.

    Args:
        x: (N, C, H, W); where pixels are removed, its values do not count.
        removed: bool (N, H, W), at least one pixel of each image left.
        tolerance: of the residual, relative to the right-hand side.

    Returns:
        (N, C, H, W), of the dtype of `x`, the pixels that are left as they were.
    """
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    # image by image: what one needs fits into the processor's cache, and none depends on the others
    filled = [_solved(image[None], hole, tolerance) for image, hole in zip(precise, removed, strict=True)]
    return torch.where(removed.unsqueeze(1), torch.cat(filled).to(x.dtype), x)


def _solved(x: Tensor, removed: Tensor, tolerance: float) -> Tensor:
    """The removed pixels of one image (1, C, H, W), by conjugate gradients; elsewhere nothing of meaning."""
    levels = _levels(removed[None, None].to(x))
    hole, reach = levels[0]
    known = 1 - hole
    mean = (known * x).sum((2, 3), keepdim=True) / known.sum()  # added again: a constant is restored as it was
    b = hole * _neighbours(known * (x - mean))
    v, r = torch.zeros_like(b), b
    enough = tolerance**2 * _dot(b, b)
    p, rz = b, torch.ones_like(enough)
    for iteration in range(MOST_ITERATIONS):
        if bool(_dot(r, r) <= enough):
            break
        z = _cycle(levels, r)
        before, rz = rz, _dot(r, z)
        p = z if iteration == 0 else z + rz / before * p
        Ap = _system(hole, reach, p)
        a = rz / _dot(p, Ap)
        v = v + a * p
        r = r - a * Ap
    return v + mean


def _cycle(levels: list[tuple[Tensor, Tensor]], r: Tensor) -> Tensor:
    """About A^-1 r, by a multigrid V-cycle: a step of Jacobi, the coarse levels' correction, a step of Jacobi.

    With these weights Jacobi's method needs no damping to be a good smoother: of what the coarse level cannot hold, a
    step leaves a third. Restriction is the transpose of prolongation, so the cycle is symmetric, as the conjugate
    gradients need it.
    """
    (hole, reach), *coarse = levels
    v = hole * r / reach
    if not coarse:
        return v
    height, width = r.shape[2:]
    kernel = _kernel(r)
    left = F.pad(r - _system(hole, reach, v), (0, width % 2, 0, height % 2))
    below = coarse[0][0] * F.conv2d(left, kernel, stride=2, padding=1, groups=r.shape[1])
    up = F.conv_transpose2d(_cycle(coarse, below), kernel, stride=2, padding=1, groups=r.shape[1])
    v = v + hole * up[..., :height, :width]
    return v + (r - _system(hole, reach, v)) / reach


def _levels(hole: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(hole, sum of the weights of a pixel's neighbours) of the grid and of ever coarser ones, until no hole is left.

    A coarse pixel belongs to the hole if all of its fine ones do.
    """
    levels = [(hole, _neighbours(torch.ones_like(hole)))]
    while min(hole.shape[2:]) > COARSEST:
        hole = (F.avg_pool2d(hole, 2, ceil_mode=True, count_include_pad=False) == 1).to(hole)
        if not bool(hole.any()):
            break
        levels.append((hole, _neighbours(torch.ones_like(hole))))
    return levels


def _system(hole: Tensor, reach: Tensor, v: Tensor) -> Tensor:
    """A v: for each removed pixel i, sum_j w_ij (v_i - v_j)."""
    return hole * (reach * v - _neighbours(v))


def _neighbours(v: Tensor) -> Tensor:
    """sum_j w_ij v_j over the neighbours inside the image."""
    wide = F.pad(v, (1, 1, 1, 1))
    beside = wide[..., :-2] + wide[..., 2:]
    other_row = DIRECT * wide[..., 1:-1] + DIAGONAL * beside
    return other_row[:, :, :-2] + other_row[:, :, 2:] + DIRECT * beside[:, :, 1:-1]


def _kernel(like: Tensor) -> Tensor:
    """Bilinear interpolation to twice the size, for each channel."""
    along = like.new_tensor([0.25, 0.75, 0.75, 0.25])
    return (along[:, None] * along).expand(like.shape[1], 1, 4, 4)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()
