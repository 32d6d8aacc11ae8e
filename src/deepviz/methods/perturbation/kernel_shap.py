"""KernelSHAP: Lundberg and Lee 2017."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.methods.method import View
from deepviz.methods.perturbation.cells import Cells, partition
from deepviz.methods.perturbation.masking import Masking
from deepviz.methods.perturbation.perturbation_map import ROUND, Estimate, SampledMap
from deepviz.methods.perturbation.surrogate import fitted
from deepviz.options import Budget, Ge
from deepviz.probe.seeds import generator_of


@dataclass(frozen=True)
class KernelSHAP(SampledMap):
    """Shapley values of the parts of the image, as the weighted linear model that fits best.

        R = argmin_b sum_z w(|z|) (S_c(z) - S_c(0) - z b)^2    subject to    sum_k b_k = S_c(x) - S_c(baseline)
        w(s) = (d - 1) / ((d choose s) s (d - s))

    z says which of the d parts are there; the others are replaced by the baseline. z is drawn in proportion to w, each
    together with its complement 1 - z, which makes the estimate exact for games of pairs. Where `max_passes` suffices
    for all 2^d, they are all taken, and the values are exact.

    Shapes: x (N, C, H, W) -> (N, 1, h, w) for h x w cells, (N, 1, H, W) for other parts; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. In units of the score. Drawn with its sign. The notes hold "standard error", relative to
    the map: that of the coefficients, robust to the spread of the residuals (White 1980, HC3).

    Errors: MethodError if `max_passes` does not suffice to fit d values; those of `FeatureAblation`.

    Pitfall: as for `ShapleySampling`; and the error is that of sampling alone, not of explaining a network by a sum.

    Reference: Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions" (2017), arXiv:1705.07874,
    theorem 2; pairs: Covert and Lee, "Improving KernelSHAP" (2021), arXiv:2012.01536.

    Example:
        >>> import torch
        >>> from deepviz.methods import KernelSHAP
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
        >>> x = torch.rand(1, 3, 8, 8)
        >>> R = KernelSHAP(cells=2)(linear, x, target=1)
        >>> torch.allclose(R.sum(), linear(x)[0, 1] - linear(0 * x)[0, 1], atol=1e-5)
        True
    """

    cells: Cells = 7
    max_passes: Annotated[Budget, Ge(2)] = 1000

    title: ClassVar[str] = "KernelSHAP"
    paper: ClassVar[str] = "Lundberg and Lee 2017, arXiv:1705.07874"
    cost: ClassVar[str] = "at most `max_passes` (1000) forwards: 1 for each combination of parts"

    def draws(self, image: Masking) -> Iterator[Estimate]:
        """R and its standard errors, from a sample that grows; or from all combinations."""
        parts = partition(image.x, self.cells)
        d = parts.count
        start = image.empty  # S(0), (1, K)
        change = image.clean - start
        if d == 1:
            yield Estimate(parts.maps(change.T), 2, parts.maps(torch.zeros_like(change.T)))
            return
        if 2**d <= self.max_passes:
            z, w = _all_combinations(d)
            S = image.values(len(z), lambda chunk: parts.masks(z[chunk])) - start
            exact = _constrained(z, S, w, change)
            assert exact is not None
            yield Estimate(parts.maps(exact[0]), 2**d, parts.maps(torch.zeros_like(exact[0])))
            return
        most = (self.max_passes - 2) // 2
        if most <= d:
            raise self.too_few(2 * (d + 1) + 2, d)
        drawn, found = [], []
        for first in range(0, most, ROUND // 2):
            numbers = range(first, min(first + ROUND // 2, most))
            z = torch.stack([_combination(d, self.seed, number) for number in numbers])
            both = torch.cat([z, 1 - z])
            S, T = (image.values(len(both), lambda chunk: parts.masks(both[chunk])) - start).chunk(2)  # noqa: B023
            drawn.append(z)
            # by the constraint, S(1 - z) says as much about z: both in one observation, which are independent
            found.append((S + change - T) / 2)
            z = torch.cat(drawn)
            fit = _constrained(z, torch.cat(found), torch.ones(len(z)), change) if len(z) > d else None
            if fit is not None:
                R, errors = fit
                yield Estimate(parts.maps(R), 2 + 2 * len(z), parts.maps(errors))

    @property
    def view(self) -> View:
        """With its sign."""
        return "sum"


def _constrained(z: Tensor, y: Tensor, w: Tensor, change: Tensor) -> tuple[Tensor, Tensor] | None:
    """argmin_b sum w (y - z b)^2 with sum b = change, and its standard errors, (K, d) each; None if z does not
    determine b.

    b = change/d + b' with sum b' = 0; what is left of y is fitted by z less its mean, which lies in that plane. A
    penalty of (sum b')^2, which is 0, makes the system regular.
    """
    d = z.shape[1]
    z, w = z.double(), w.double()
    share = z.mean(1, keepdim=True)
    fit = fitted(z - share, y - share * change, w, torch.ones(d, d, dtype=torch.float64))
    return fit and (change.T / d + fit[0], fit[1])


def _combination(d: int, seed: int, number: int) -> Tensor:
    """Which of d parts are there, (d,): how many in proportion to 1/(s (d - s)), which ones at random."""
    generator = generator_of(seed, number)
    sizes = torch.arange(1, d, dtype=torch.float64)
    size = 1 + int(torch.multinomial(1 / (sizes * (d - sizes)), 1, generator=generator))
    z = torch.zeros(d)
    z[torch.randperm(d, generator=generator)[:size]] = 1
    return z


def _all_combinations(d: int) -> tuple[Tensor, Tensor]:
    """All combinations of parts but none and all, (2^d - 2, d), and their weights w."""
    numbers = torch.arange(1, 2**d - 1)
    z = (numbers[:, None] >> torch.arange(d)) & 1
    w = [(d - 1) / (math.comb(d, s) * s * (d - s)) for s in z.sum(1).tolist()]
    return z.float(), torch.tensor(w, dtype=torch.float64)
