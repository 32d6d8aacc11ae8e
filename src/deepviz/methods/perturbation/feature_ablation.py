"""Feature ablation: one part of the image taken away at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from deepviz.methods.method import View
from deepviz.methods.perturbation.cells import Cells, counted, partition
from deepviz.methods.perturbation.masking import Masking
from deepviz.methods.perturbation.perturbation_map import ROUND, Estimate, PerturbationMap


@dataclass(frozen=True)
class FeatureAblation(PerturbationMap):
    """How much the score falls when a part of the image is taken away, for each part.

        R_k = S_c(x) - S_c(x with part k replaced by the baseline)

    The parts are cells of a grid, superpixels, or regions of your own: a tensor with the number of each pixel's part.

    Shapes: x (N, C, H, W) -> (N, 1, h, w) for h x w cells, (N, 1, H, W) for other parts; signals (N, C, L) and volumes
    (N, C, D, H, W) likewise. In units of the score. Drawn with its sign.

    Errors: ImageError for `cells` that do not fit the image; MissingExtra for superpixels without scikit-image.

    Pitfall: evidence that two parts hold alike is missed: taking away either changes nothing. Shapley values
    (`ShapleySampling`) share it between them.

    Reference: the simplest form of Robnik-Sikonja and Kononenko, "Explaining Classifications For Individual
    Instances" (2008), doi:10.1109/TKDE.2007.190734.

    Example:
        >>> import torch
        >>> from deepviz.methods import FeatureAblation
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
        >>> halves = (torch.arange(8) < 4).long().expand(8, 8)
        >>> R = FeatureAblation(cells=halves)(linear, torch.rand(1, 3, 8, 8), target=1)
        >>> R.shape, R.unique().numel()
        (torch.Size([1, 1, 8, 8]), 2)
    """

    cells: Cells = 7

    title: ClassVar[str] = "Feature ablation"
    paper: ClassVar[str] = "Robnik-Sikonja and Kononenko 2008, doi:10.1109/TKDE.2007.190734"
    cost: ClassVar[str] = "1 forward, and 1 for each part"

    def estimates(self, image: Masking) -> Iterator[Estimate]:
        """The falls, 0 where a part was not asked about yet."""
        parts = partition(image.x, self.cells)
        R = torch.zeros(image.clean.shape[1], parts.count, dtype=torch.float64)

        def masks(chunk: slice) -> Tensor:
            return parts.masks(1 - F.one_hot(torch.arange(start, stop)[chunk], parts.count).float())

        for start in range(0, parts.count, ROUND):
            stop = min(start + ROUND, parts.count)
            R[:, start:stop] = (image.clean - image.values(stop - start, masks)).T
            yield Estimate(parts.maps(R), 1 + stop, most=1 + parts.count)

    def passes(self) -> float:
        """Of an image."""
        return 1.0 + counted(self.cells)

    @property
    def view(self) -> View:
        """With its sign."""
        return "sum"
