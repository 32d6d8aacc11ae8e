"""Sobol indices: Fel, Cadene, Chalvidal, Cord, Vigouroux and Serre 2021."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.methods.method import View
from deepviz.methods.perturbation.cells import Cells, partition
from deepviz.methods.perturbation.masking import Masking
from deepviz.methods.perturbation.perturbation_map import ROUND, Estimate, SampledMap
from deepviz.options import Budget, Ge
from deepviz.probe.seeds import generator_of


@dataclass(frozen=True)
class Sobol(SampledMap):
    """How much of the variance of the score a part of the image is involved in, alone or together with others.

        R_k = E[(f(A) - f(A with column k of B))^2] / (2 Var f)

    the total Sobol index, by Jansen's estimator. A and B are independent points of [0, 1]^d, one coordinate for each of
    the d parts; f(m) = S_c(x m + b (1 - m)). One pair of points costs d + 2 passes. The paper takes points of a Sobol
    sequence; in 128 dimensions, for 64 cells, 32 of those are no better, and do not tell how far off the indices are.

    Shapes: x (N, C, H, W) -> (N, 1, h, w) for h x w cells, (N, 1, H, W) for other parts; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. A share, from 0 up; the shares of interacting parts count in each, so that the sum may be
    above 1. Drawn from zero up. The notes hold "standard error", relative to the map; from a few dozen pairs that of a
    small index is often too small, since few pairs make up most of it.

    Errors: MethodError if `max_passes` does not suffice for two pairs of points; those of `FeatureAblation`.

    Pitfall: an index says that a part matters, not whether it is evidence for the class or against it.

    Reference: Fel, Cadene, Chalvidal, Cord, Vigouroux and Serre, "Look at the Variance! Efficient Black-box
    Explanations with Sobol-based Sensitivity Analysis" (2021), arXiv:2111.04138.

    Example:
        >>> import torch
        >>> from deepviz.methods import Sobol
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
        >>> Sobol(cells=2, max_passes=60)(linear, torch.rand(1, 3, 8, 8), target=1).shape
        torch.Size([1, 1, 2, 2])
    """

    cells: Cells = 8
    max_passes: Annotated[Budget, Ge(2)] = 2112

    title: ClassVar[str] = "Sobol indices"
    paper: ClassVar[str] = "Fel et al. 2021, arXiv:2111.04138"
    cost: ClassVar[str] = "at most `max_passes` (2112) forwards: 32 pairs of points for 64 cells"

    def draws(self, image: Masking) -> Iterator[Estimate]:
        """R, with its standard error over pairs of points."""
        parts = partition(image.x, self.cells)
        d = parts.count
        most = self.max_passes // (d + 2)
        if most < 2:
            raise self.too_few(2 * (d + 2), d)
        found: list[Tensor] = []
        while len(found) < most:
            numbers = range(len(found), min(len(found) + max(1, ROUND // (d + 2)), most))
            m = torch.cat([_points(d, self.seed, number) for number in numbers])
            found += image.values(len(m), lambda chunk: parts.masks(m[chunk])).unflatten(0, (len(numbers), d + 2))  # noqa: B023
            if len(found) < 2:
                continue
            f = torch.stack(found)  # (pairs, 2 + d, K)
            ends, changed = f[:, :2], f[:, 2:]
            deviations = (ends - ends.mean((0, 1))).square().mean(1, keepdim=True)  # (pairs, 1, K)
            variance = deviations.mean(0) * 2 * len(f) / (2 * len(f) - 1)
            squares = (changed - ends[:, :1]).square() / 2
            R = squares.mean(0) / variance.clamp_min(torch.finfo(f.dtype).tiny)
            # of a ratio, to first order
            of_pair = (squares - R * deviations) / variance.clamp_min(torch.finfo(f.dtype).tiny)
            errors = of_pair.std(0) / len(f) ** 0.5
            yield Estimate(parts.maps(R.T), len(f) * (d + 2), parts.maps(errors.T))

    @property
    def view(self) -> View:
        """From zero up."""
        return "positive"


def _points(d: int, seed: int, number: int) -> Tensor:
    """A, B, and A with column k of B for each k: (2 + d, d)."""
    A, B = torch.rand(2, d, generator=generator_of(seed, number))
    return torch.cat([A[None], B[None], torch.where(torch.eye(d, dtype=torch.bool), B, A)])
