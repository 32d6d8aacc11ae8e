"""RISE: Petsiuk, Das and Saenko 2018."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from deepviz.methods.method import View
from deepviz.methods.perturbation.masking import Masking, Read
from deepviz.methods.perturbation.perturbation_map import ROUND, Estimate, SampledMap
from deepviz.options import Budget, Ge, Gt, Lt
from deepviz.probe.seeds import generator_of

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
HELD = 2**24
"""Values of masks that are held at a time, at most."""


@dataclass(frozen=True)
class RISE(SampledMap):
    """The mean of random masks, weighted by what the model says to the image under each.

        S(p) = 1/(N E[M]) sum_i f(x * M_i) M_i(p)

    A mask is a grid of `cells` values along each axis, each 1 with probability `keep`, else 0, enlarged linearly to one
    cell more than the image and cropped to it at a random place; E[M] = `keep`. f is the probability of the class, as
    in the paper. With a baseline other than 0, x M + b (1 - M) takes the place of x * M.

    Shapes: x (N, C, H, W) -> (N, 1, H, W); signals (N, C, L) and volumes (N, C, D, H, W) likewise. In units of f: the
    expected f where the pixel is kept. Drawn from its lowest value up, since all values share the mean of f. The notes
    hold "standard error": that of the map relative to how much it varies.

    Errors: see `Method.__call__`.

    Pitfall: few passes give a map of the masks rather than of the model; look at the standard error. Near 1, the map is
    noise. Smaller cells show finer things and need more passes.

    Reference: Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (2018),
    arXiv:1806.07421.

    Example:
        >>> import torch
        >>> from deepviz.methods import RISE
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 5))
        >>> RISE(cells=4, max_passes=200)(model, torch.rand(2, 3, 16, 16), target=3).shape
        torch.Size([2, 1, 16, 16])
    """

    value: Read = "probability"
    cells: Annotated[int, Ge(1), "Cells of a mask along each axis."] = 7
    keep: Annotated[float, Gt(0), Lt(1), "Probability that a cell is kept."] = 0.5
    max_passes: Annotated[Budget, Ge(2)] = 4000

    title: ClassVar[str] = "RISE"
    paper: ClassVar[str] = "Petsiuk et al. 2018, arXiv:1806.07421"
    cost: ClassVar[str] = "`max_passes` forwards (4000)"

    def draws(self, image: Masking) -> Iterator[Estimate]:
        """S, with the standard error of this mean."""
        held = max(1, min(ROUND, HELD // math.prod(image.space)))
        total = squares = torch.zeros(image.clean.shape[1], math.prod(image.space), dtype=torch.float64)
        for start in range(0, self.max_passes, held):
            stop = min(start + held, self.max_passes)
            M = self.masks(range(start, stop), image.space)
            f = image.values(len(M), lambda chunk: M[chunk])  # noqa: B023
            M = M.flatten(1).double() / self.keep
            total = total + f.T @ M
            squares = squares + f.T.square() @ M.square()
            S = total / stop
            errors = ((squares / stop - S.square()).clamp_min(0) / max(1, stop - 1)).sqrt()
            maps = S.view(-1, 1, *image.space)
            level = S.mean(1).view(-1, *[1] * (maps.ndim - 1))
            if stop >= min(ROUND, self.max_passes):
                yield Estimate(maps, stop, errors.view(maps.shape), level)

    def masks(self, numbers: range, space: tuple[int, ...]) -> Tensor:
        """The masks of these numbers, (n, 1, *space)."""
        cell = [math.ceil(side / self.cells) for side in space]
        grids, shifts = [], []
        for number in numbers:
            generator = generator_of(self.seed, number)
            grids.append(torch.rand([self.cells] * len(space), generator=generator) < self.keep)
            shifts.append([int(torch.randint(size, (), generator=generator)) for size in cell])
        large = [(self.cells + 1) * size for size in cell]
        enlarged = F.interpolate(torch.stack(grids).unsqueeze(1).float(), large, mode=MODES[len(space)])
        return torch.stack([_cropped(M, shift, space) for M, shift in zip(enlarged, shifts, strict=True)])

    @property
    def view(self) -> View:
        """From its lowest value up."""
        return "range"


def _cropped(M: Tensor, shift: list[int], space: tuple[int, ...]) -> Tensor:
    places = (slice(start, start + side) for start, side in zip(shift, space, strict=True))
    return M[(slice(None), *places)]
