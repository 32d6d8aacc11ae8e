"""How alike two maps are: as Adebayo et al. 2018 compare the maps of trained and of random networks.

Each takes maps (N, h, w) and gives (N,): 1 for equal ones, about 0 for independent ones. Scale does not count: a map
is first divided by its largest magnitude. Where one of the two is constant no similarity can be computed, and
the answer is 0, or 1 if both are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW_SIGMA, WINDOW_RADIUS = 1.5, 5
K1, K2 = 0.01, 0.03
ORIENTATIONS, CELL, BLOCK, SIDE = 9, 16, 3, 224


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """The correlation of the ranks of the values (Spearman 1904); equal values share their mean rank."""
    return correlation(ranked(a.flatten(1)), ranked(b.flatten(1)))


def absolute_spearman(a: Tensor, b: Tensor) -> Tensor:
    """The same for the magnitudes: where the maps are strong, whatever the sign."""
    return spearman(a.abs(), b.abs())


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), the mean over all pixels.

        SSIM = (2 m_a m_b + C1)(2 s_ab + C2) / ((m_a^2 + m_b^2 + C1)(s_a^2 + s_b^2 + C2))

    Means m and (co)variances s in a Gaussian window of standard deviation 1.5, cut at 5 pixels, border pixels
    repeated outwards; C1 = (0.01 L)^2, C2 = (0.03 L)^2, L = 2 where values have both signs and 1 where not.
    """
    a, b = _normalised(a), _normalised(b)
    L = 1 + ((a.amin((1, 2)) < 0) | (b.amin((1, 2)) < 0)).to(a)
    C1, C2 = ((k * L).square()[:, None, None] for k in (K1, K2))
    m_a, m_b = _windowed(a), _windowed(b)
    s_aa, s_bb, s_ab = _windowed(a * a) - m_a**2, _windowed(b * b) - m_b**2, _windowed(a * b) - m_a * m_b
    found = (2 * m_a * m_b + C1) * (2 * s_ab + C2) / ((m_a**2 + m_b**2 + C1) * (s_aa + s_bb + C2))
    return _or_constant(found.mean((1, 2)), a.flatten(1), b.flatten(1))


def hog(a: Tensor, b: Tensor) -> Tensor:
    """The correlation of histograms of oriented gradients (Dalal and Triggs 2005), on maps of at least 224 pixels.

    Nine orientations without sign, cells of 16 pixels, blocks of 3 x 3 cells, normalised to length 1, cut at 0.2 and
    normalised again. Smaller maps are enlarged bilinearly first.
    """
    return correlation(_histograms(_normalised(a)), _histograms(_normalised(b)))


SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "spearman": spearman,
    "absolute-spearman": absolute_spearman,
    "ssim": ssim,
    "hog": hog,
}
"""Every similarity, by name."""


def ranked(values: Tensor) -> Tensor:
    """The ranks 0, 1, ... of values (N, M) in rising order; equal values share their mean rank."""
    ranks = torch.empty(values.shape, dtype=torch.float64, device=values.device)
    for row, of_row in zip(values, ranks, strict=True):
        _, inverse, count = torch.unique(row, return_inverse=True, return_counts=True)
        last = count.cumsum(0).double()
        of_row.copy_((last - (count.double() + 1) / 2)[inverse])
    return ranks


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation, of rows (N, M)."""
    a, b = a.double(), b.double()
    from_mean_a, from_mean_b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    length = from_mean_a.norm(dim=1) * from_mean_b.norm(dim=1)
    return _or_constant((from_mean_a * from_mean_b).sum(1) / length.clamp_min(1e-300), a, b)


def _or_constant(found: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The similarity found; 0 where one of the rows is constant, 1 where both are."""
    flat_a, flat_b = (row.amin(1) == row.amax(1) for row in (a, b))
    return torch.where(flat_a | flat_b, (flat_a & flat_b).to(found), found)


def _normalised(maps: Tensor) -> Tensor:
    """Divided by the largest magnitude, in double precision."""
    maps = maps.double()
    return maps / maps.abs().amax((1, 2), keepdim=True).clamp_min(1e-300)


def _windowed(maps: Tensor) -> Tensor:
    offsets = torch.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-0.5 * (offsets / WINDOW_SIGMA) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(maps.unsqueeze(1), (WINDOW_RADIUS,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1)).squeeze(1)


def _histograms(maps: Tensor) -> Tensor:
    """Histograms of oriented gradients, (N, features)."""
    if min(maps.shape[1:]) < SIDE:
        share = SIDE / min(maps.shape[1:])
        size = [max(SIDE, round(side * share)) for side in maps.shape[1:]]
        maps = F.interpolate(maps.unsqueeze(1), size, mode="bilinear", align_corners=False).squeeze(1)
    down, right = torch.zeros_like(maps), torch.zeros_like(maps)
    down[:, 1:-1] = maps[:, 2:] - maps[:, :-2]
    right[:, :, 1:-1] = maps[:, :, 2:] - maps[:, :, :-2]
    angle = torch.atan2(down, right) % torch.pi
    bins = (angle * ORIENTATIONS / torch.pi).long().clamp_max(ORIENTATIONS - 1)
    votes = torch.zeros((len(maps), ORIENTATIONS, *maps.shape[1:]), dtype=maps.dtype, device=maps.device)
    votes.scatter_(1, bins.unsqueeze(1), torch.hypot(down, right).unsqueeze(1))
    cells = F.avg_pool2d(votes, CELL)
    blocks = F.unfold(cells, BLOCK)  # (N, orientations * 9, blocks)
    cut = F.normalize(blocks, dim=1).clamp_max(0.2)
    return F.normalize(cut, dim=1).flatten(1)
