"""Sobol indices: Fel, Cadene, Chalvidal, Cord, Vigouroux and Serre 2021."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.methods.method import View
from deepviz.methods.perturbation.cells import Cells, partition
from deepviz.methods.perturbation.masking import Masking
from deepviz.methods.perturbation.perturbation_map import Estimate, SampledMap
from deepviz.options import Budget, Ge


@dataclass(frozen=True)
class Sobol(SampledMap):
    """How much of the variance of the score a part of the image is involved in, alone or together with others.

        R_k = E[(f(A) - f(A with column k of B))^2] / (2 Var f)

    the total Sobol index, by Jansen's estimator. A and B are independent points of [0, 1]^d, one coordinate for each of
    the d parts, of a scrambled Sobol sequence; f(m) = S_c(x m + b (1 - m)). One pair of points costs d + 2 passes.

    Shapes: x (N, C, H, W) -> (N, 1, h, w) for h x w cells, (N, 1, H, W) for other parts; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. A share, from 0 up; the shares of interacting parts count in each, so that the sum may be
    above 1. Drawn from zero up. The notes hold "standard error", relative to the map; it takes the points for
    independent, though they are more even than that, and is rather too large.

    Errors: MethodError if `max_passes` does not suffice for two pairs of points; those of `FeatureAblation`.

    Pitfall: an index says that a part matters, not whether it speaks for the class or against it.

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
    cost: ClassVar[str] = "at most `max_passes` forwards (2112: 32 pairs of points for 64 cells)"

    def draws(self, image: Masking) -> Iterator[Estimate]:
        """R, with its standard error over pairs of points."""
        parts = partition(image.x, self.cells)
        d = parts.count
        most = self.max_passes // (d + 2)
        if most < 2:
            raise self.too_few(2 * (d + 2), d)
        points = torch.quasirandom.SobolEngine(2 * d, scramble=True, seed=self.seed)
        found: list[Tensor] = []
        for number in range(most):
            A, B = points.draw(1).unflatten(1, (2, d))[0]
            swapped = torch.where(torch.eye(d, dtype=torch.bool), B, A)  # row k: A with column k of B
            m = torch.cat([A[None], B[None], swapped])
            found.append(image.values(len(m), lambda chunk: parts.masks(m[chunk])))  # noqa: B023
            if number == 0:
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
