"""Shapley values by sampled permutations: Castro, Gomez and Tejada 2009."""

from collections.abc import Callable, Iterator
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
class ShapleySampling(SampledMap):
    """The Shapley value of each part of the image: what it adds to the score, averaged over orders of adding parts.

        R_k = 1/(2m) sum_o (S_c(parts before k in o, and k) - S_c(parts before k in o))

    The sum is over m random orders and their reverses (antithetic): a part that came early comes late in the reverse,
    so that the two err in opposite ways. Parts that are not there are replaced by the baseline. The values sum to
    S_c(x) - S_c(baseline) whatever m is.

    Shapes: x (N, C, H, W) -> (N, 1, h, w) for h x w cells, (N, 1, H, W) for other parts; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. In units of the score. Drawn with its sign. The notes hold "standard error": that of the
    values, from the spread of the m pairs, relative to the map.

    Errors: MethodError if `max_passes` does not suffice for two pairs of orders; those of `FeatureAblation`.

    Pitfall: most of the images that the model is asked about are half covered, unlike any that it was trained on.

    Reference: Castro, Gomez and Tejada, "Polynomial calculation of the Shapley value based on sampling" (2009),
    doi:10.1016/j.cor.2008.04.004; reverses: Mitchell, Cooper, Frank and Holmes, "Sampling Permutations for Shapley
    Value Estimation" (2022), arXiv:2104.12199.

    Example:
        >>> import torch
        >>> from deepviz.methods import ShapleySampling
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
        >>> x = torch.rand(1, 3, 8, 8)
        >>> R = ShapleySampling(cells=2, max_passes=50)(linear, x, target=1)
        >>> torch.allclose(R.sum(), linear(x)[0, 1] - linear(0 * x)[0, 1], atol=1e-5)
        True
    """

    cells: Cells = 7
    max_passes: Annotated[Budget, Ge(2)] = 2000

    title: ClassVar[str] = "Shapley sampling"
    paper: ClassVar[str] = "Castro et al. 2009, doi:10.1016/j.cor.2008.04.004"
    cost: ClassVar[str] = "at most `max_passes` (2000) forwards: 1 for each part and order"

    def draws(self, image: Masking) -> Iterator[Estimate]:
        """The mean over pairs of orders, with the standard error of this mean."""
        parts = partition(image.x, self.cells)
        ends = torch.stack([image.empty[0], image.clean[0]])  # S(b), S(x): (2, K)
        if parts.count == 1:
            whole = (ends[1] - ends[0])[:, None]
            yield Estimate(parts.maps(whole), 2, parts.maps(torch.zeros_like(whole)))
            return
        each = 2 * (parts.count - 1)
        most = (self.max_passes - 2) // each
        if most < 2:
            raise self.too_few(2 + 2 * each, parts.count)
        pairs: list[Tensor] = []
        while len(pairs) < most:
            count = min(max(1, ROUND // each), most - len(pairs))
            drawn = [
                torch.randperm(parts.count, generator=generator_of(self.seed, len(pairs) + number))
                for number in range(count)
            ]
            orders = torch.stack([one for order in drawn for one in (order, order.flip(0))])
            pairs += self._added(image, parts.masks, orders, ends).unflatten(0, (count, 2)).mean(1)
            if len(pairs) < 2:
                continue
            R = torch.stack(pairs)  # (m, K, parts)
            errors = R.std(0) / len(pairs) ** 0.5
            yield Estimate(parts.maps(R.mean(0)), 2 + each * len(pairs), parts.maps(errors))

    @staticmethod
    def _added(image: Masking, masks: Callable[[Tensor], Tensor], orders: Tensor, ends: Tensor) -> Tensor:
        """What each part adds in each order: (orders, K, parts)."""
        place = orders.argsort(1)  # of each part in each order
        inner = torch.arange(1, orders.shape[1])  # how many parts are there: none and all are known
        z = (place[:, None, :] < inner[None, :, None]).flatten(0, 1).float()
        values = image.values(len(z), lambda chunk: masks(z[chunk])).unflatten(0, (len(orders), -1))
        first, last = (end.expand(len(orders), 1, -1) for end in ends)
        steps = torch.cat([first, values, last], 1).diff(dim=1)  # (orders, parts in their order, K)
        return steps.gather(1, place[:, :, None].expand(-1, -1, steps.shape[2])).transpose(1, 2)

    @property
    def view(self) -> View:
        """With its sign."""
        return "sum"
