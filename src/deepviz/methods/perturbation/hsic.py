"""HSIC: Novello, Fel and Vigouroux 2022."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.methods.method import View
from deepviz.methods.perturbation.cells import Cells, halves, partition
from deepviz.methods.perturbation.masking import Masking
from deepviz.methods.perturbation.perturbation_map import ROUND, Estimate, SampledMap
from deepviz.options import Budget, Ge


@dataclass(frozen=True)
class HSIC(SampledMap):
    """How strongly the score depends on whether a part of the image is there, whatever the form of the dependence.

        R_k = HSIC(z_k, f(z)),    f(z) = S_c(x with the parts where z is 0 replaced by the baseline)

    the Hilbert-Schmidt independence criterion: zero if and only if z_k and f are independent. Each z_k is 0 or 1 with
    probability 1/2, with the kernel k(z, z') = 1/2 if z = z', else -1/2; f has a Gaussian kernel, as wide as the median
    distance of two values. The estimate is that of Song et al. (2012), which has no bias; the paper's,
    tr(K H L H) / (n - 1)^2, is too large by about as much for every part.

    Shapes: x (N, C, H, W) -> (N, 1, h, w) for h x w cells, (N, 1, H, W) for other parts; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. Without a unit, at most 1/4. Drawn from zero up; values below zero are parts that the
    score does not depend on, within the error. The notes hold "standard error", relative to the map.

    Errors: those of `FeatureAblation`.

    Pitfall: it says that a part matters, not whether it is evidence for the class or against it.

    Reference: Novello, Fel and Vigouroux, "Making Sense of Dependence: Efficient Black-box Explanations Using
    Dependence Measure" (2022), arXiv:2206.06219; estimate: Song, Smola, Gretton, Bedo and Borgwardt, "Feature Selection
    via Dependence Maximization" (2012), JMLR 13, equation 4.

    Example:
        >>> import torch
        >>> from deepviz.methods import HSIC
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
        >>> HSIC(cells=2, max_passes=60)(linear, torch.rand(1, 3, 8, 8), target=1).shape
        torch.Size([1, 1, 2, 2])
    """

    cells: Cells = 7
    max_passes: Annotated[Budget, Ge(4)] = 1500

    title: ClassVar[str] = "HSIC"
    paper: ClassVar[str] = "Novello et al. 2022, arXiv:2206.06219"
    cost: ClassVar[str] = "`max_passes` (1500) forwards"

    def draws(self, image: Masking) -> Iterator[Estimate]:
        """R and its standard error, from a sample that grows."""
        parts = partition(image.x, self.cells)
        drawn, found = [], []
        for first in range(0, self.max_passes, ROUND):
            numbers = range(first, min(first + ROUND, self.max_passes))
            z = halves(parts.count, self.seed, numbers)
            found.append(image.values(len(z), lambda chunk: parts.masks(z[chunk])))  # noqa: B023
            drawn.append(z)
            if numbers.stop >= 4:
                s = 2 * torch.cat(drawn).double() - 1
                each = [dependence(s, f) for f in torch.cat(found).unbind(1)]
                R, errors = map(torch.stack, zip(*each, strict=True))
                yield Estimate(parts.maps(R), numbers.stop, parts.maps(errors))

    @property
    def view(self) -> View:
        """From zero up."""
        return "positive"


def dependence(s: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    """HSIC of each column of s (n, d), of -1 and 1, and f (n,), and the standard error of it: (d,) each.

    With K = s s'/2 and L, both with a diagonal of zeros:

        (tr(K L) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 1'K L 1 / (n - 2)) / (n (n - 3))
    """
    n = len(f)
    L = _gaussian(f)
    L.fill_diagonal_(0)
    rows, total = L.sum(1), L.sum()
    sums = s.sum(0)
    trace = ((L @ s) * s).sum(0) / 2
    ones_k = (sums.square() - n) / 2
    crossed = (sums * (rows @ s) - total) / 2
    R = (trace + ones_k * total / ((n - 1) * (n - 2)) - 2 * crossed / (n - 2)) / (n * (n - 3))
    # once L is centred, a mean over pairs: its variance is 4/n that of a pair's mean given one of the two, which is
    # zero where there is no dependence, and 2/(n (n - 1)) that of a pair. The first is estimated by n means of n - 1
    # pairs each, whose variance has 1/(n - 1) of the second in it. This is rather too large for parts that hardly
    # matter, which is as it should be: their values are skewed, and the lower ones have smaller estimated errors
    centred = L - rows[:, None] / (n - 2) - rows[None, :] / (n - 2) + total / ((n - 1) * (n - 2))
    centred.fill_diagonal_(0)
    of_one = s * (centred @ s) / 2 / (n - 1)
    of_pairs = centred.square().sum() / 4 / (n * (n - 1))
    return R, (4 * of_one.var(0) / n + 2 * of_pairs / (n * (n - 1))).sqrt()


def _gaussian(f: Tensor) -> Tensor:
    """exp(-(f_i - f_j)^2 / (2 w^2)), w the median of |f_i - f_j|."""
    apart = (f[:, None] - f[None, :]).abs()
    first, second = torch.triu_indices(len(f), len(f), 1)
    w = apart[first, second].median()
    return torch.exp(-(apart.square()) / (2 * w.square().clamp_min(torch.finfo(f.dtype).tiny)))
