"""RISE: Petsiuk, Das and Saenko 2018."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.methods.enlarge import enlarged
from deepviz.methods.method import View
from deepviz.methods.perturbation.masking import Masking, Read
from deepviz.methods.perturbation.perturbation_map import ROUND, Estimate, SampledMap
from deepviz.options import Budget, Ge, Gt, Lt
from deepviz.probe.seeds import generator_of

CPU = torch.device("cpu")
HELD = 2**24
"""Values of masks that are held at a time, at most."""


@dataclass(frozen=True)
class RISE(SampledMap):
    """The mean of random masks, weighted by what the model says to the image under each.

        S(p) = E[f(x * M) M(p)] / E[M] = E[f] + cov(f(x * M), M(p)) / E[M]

    estimated from N masks: by mean and covariance (`centred`), or by the paper's sum, 1/(N E[M]) sum_i f_i M_i(p). Both
    have the same expectation; in the sum, the mean of f times how often each pixel happened to be kept is noise, which
    takes eight times as many masks to average out (`benchmarks/RESULTS.md`).

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
    centred: Annotated[
        bool, "Weight masks by f less its mean: the same expectation with less noise. Without it, the paper's sum."
    ] = True

    title: ClassVar[str] = "RISE"
    paper: ClassVar[str] = "Petsiuk et al. 2018, arXiv:1806.07421"
    cost: ClassVar[str] = "`max_passes` (4000) forwards"

    def draws(self, image: Masking) -> Iterator[Estimate]:
        """S, with its standard error."""
        size, K, home = math.prod(image.space), image.clean.shape[1], image.home
        held = max(1, min(ROUND, HELD // size))
        total = torch.zeros(K, 1, dtype=torch.float64, device=home)
        # sums over masks of m and f m, and of m^2, f m^2 and f^2 m^2, with m = M / E[M]
        first = torch.zeros(1 + K, size, dtype=torch.float64, device=home)
        second = torch.zeros(3, K, size, dtype=torch.float64, device=home)
        for start in range(0, self.max_passes, held):
            N = min(start + held, self.max_passes)
            masks = self.masks(range(start, N), image.space, home)
            f = image.values(len(masks), lambda chunk: masks[chunk]).T.to(home)  # noqa: B023
            m = masks.flatten(1) / self.keep
            total = total + f.sum(1, keepdim=True)
            first += torch.cat([torch.ones_like(f[:1]), f]) @ m
            second += torch.stack([torch.ones_like(f), f, f.square()]) @ m.square()
            if min(ROUND, self.max_passes) > N:
                continue
            level = total / N if self.centred else torch.zeros_like(total)
            rest = (first[1:] - level * first[:1]) / N  # the mean of (f - level) m
            squares = (second[2] - 2 * level * second[1] + level.square() * second[0]) / N
            errors = ((squares - rest.square()).clamp_min(0) / max(1, N - 1)).sqrt()
            S = level + rest * N / max(1, N - 1) if self.centred else rest
            maps = S.view(-1, 1, *image.space).cpu()
            mean = S.mean(1).view(-1, *[1] * (maps.ndim - 1)).cpu()
            yield Estimate(maps, N, errors.view(maps.shape).cpu(), mean)

    def masks(self, numbers: range, space: tuple[int, ...], home: torch.device = CPU) -> Tensor:
        """The masks of these numbers, (n, 1, *space), in double precision."""
        cell = [math.ceil(side / self.cells) for side in space]
        grids, shifts = [], []
        for number in numbers:
            generator = generator_of(self.seed, number)
            grids.append(torch.rand([self.cells] * len(space), generator=generator) < self.keep)
            shifts.append([int(torch.randint(size, (), generator=generator)) for size in cell])
        M = torch.stack(grids).to(home, torch.float64)
        for side, size, shift in zip(space, cell, zip(*shifts, strict=True), strict=True):
            # what each cell gives to each place of one axis, enlarged, and cropped at each mask's own shift
            gives = enlarged(torch.eye(self.cells, dtype=torch.float64).unsqueeze(1), [(self.cells + 1) * size])
            places = torch.tensor(shift)[:, None] + torch.arange(side)
            W = gives[:, 0, places].to(home)  # (cells, n, side)
            M = torch.einsum("nc...,cns->n...s", M, W)  # this axis goes last, and the next one is first
        return M.unsqueeze(1)

    @property
    def view(self) -> View:
        """From its lowest value up."""
        return "range"
