"""LIME: Ribeiro, Singh and Guestrin 2016."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from deepviz.methods.method import View
from deepviz.methods.perturbation.cells import Cells, halves, partition
from deepviz.methods.perturbation.masking import Masking
from deepviz.methods.perturbation.perturbation_map import ROUND, Estimate, SampledMap
from deepviz.methods.perturbation.surrogate import fitted
from deepviz.options import Budget, Ge, Gt


@dataclass(frozen=True)
class LIME(SampledMap):
    """A linear model of what the parts of the image do, fitted around the image.

        R = argmin_b sum_z w(z) (S_c(z) - b_0 - z b)^2 + ridge |b|^2
        w(z) = sqrt(exp(-D(z)^2 / width^2)),    D(z) = 1 - sqrt(|z| / d)

    z says which of the d parts are there, each with probability 1/2; the others are replaced by the baseline. D is the
    cosine distance of z from the whole image. The kernel, its width and the ridge are those of the authors' code for
    images, which replaces a part by its own mean colour.

    Shapes: x (N, C, H, W) -> (N, 1, h, w) for h x w cells, (N, 1, H, W) for other parts; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. In units of the score. Drawn with its sign. The notes hold "standard error", relative to
    the map: that of the coefficients, robust to the spread of the residuals (White 1980, HC3).

    Errors: MethodError if without a ridge `max_passes` does not suffice to fit d values; those of `FeatureAblation`.

    Pitfall: the map depends on the kernel's width and on the parts: try others. The ridge draws all values towards
    zero, the more, the fewer samples there are.

    Reference: Ribeiro, Singh and Guestrin, "Why Should I Trust You?" (2016), arXiv:1602.04938.

    Example:
        >>> import torch
        >>> from deepviz.methods import LIME
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
        >>> LIME(cells=4, max_passes=100)(linear, torch.rand(1, 3, 8, 8), target=1).shape
        torch.Size([1, 1, 4, 4])
    """

    cells: Cells = "superpixels"
    max_passes: Annotated[Budget, Ge(3)] = 1000
    width: Annotated[float, Gt(0), "Width of the kernel: how near the image the model is to hold."] = 0.25
    ridge: Annotated[float, Ge(0), "Penalty of the squared values."] = 1.0

    title: ClassVar[str] = "LIME"
    paper: ClassVar[str] = "Ribeiro et al. 2016, arXiv:1602.04938"
    cost: ClassVar[str] = "`max_passes` (1000) forwards"

    def draws(self, image: Masking) -> Iterator[Estimate]:
        """b and its standard errors, from a sample that grows; the first of it is the whole image."""
        parts = partition(image.x, self.cells)
        d = parts.count
        if not self.ridge and self.max_passes < d + 2:
            raise self.too_few(d + 2, d)
        penalty = torch.diag(torch.tensor([0.0, *[self.ridge] * d], dtype=torch.float64))
        drawn, found = [torch.ones(1, d)], [image.clean]
        for first in range(1, self.max_passes, ROUND):
            numbers = range(first, min(first + ROUND, self.max_passes))
            z = halves(d, self.seed, numbers)
            found.append(image.values(len(z), lambda chunk: parts.masks(z[chunk])))  # noqa: B023
            drawn.append(z)
            z = torch.cat(drawn).double()
            D = 1 - (z.mean(1)).sqrt()
            w = (-(D.square()) / self.width**2).exp().sqrt()
            fit = fitted(torch.cat([torch.ones(len(z), 1), z], 1), torch.cat(found), w, penalty)
            if fit is not None and (self.ridge or len(z) > d + 1):
                b, errors = fit
                yield Estimate(parts.maps(b[:, 1:]), numbers.stop, parts.maps(errors[:, 1:]))

    @property
    def view(self) -> View:
        """With its sign."""
        return "sum"
