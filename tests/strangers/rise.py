"""RISE: Petsiuk et al. 2018. Written as somebody outside of this package would: one file, nothing else edited."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from deepviz.methods import Method, Needs
from deepviz.options import Baseline, Ge, Gt, Lt, Seed
from deepviz.probe.seeds import generator_of
from deepviz.probe.session import Session


@dataclass(frozen=True)
class RISE(Method):
    """The mean of random masks, weighted by the score of the image that each leaves visible.

        R = 1/(p n) sum_i S_c(M_i x + (1 - M_i) b) M_i

    M_i is a coarse grid of cells, each visible with probability p, enlarged and shifted at random.

    Shapes: x (N, C, H, W) -> (N, 1, H, W).

    Errors: see `Method.__call__`.

    Pitfall: with few masks the map is mostly noise; the paper takes thousands.

    Reference: Petsiuk, Das and Saenko, "RISE" (2018), arXiv:1806.07421.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
        >>> RISE(masks=10, cells=4)(model, torch.rand(2, 3, 8, 8), target=3).shape
        torch.Size([2, 1, 8, 8])
    """

    masks: Annotated[int, Ge(1), "Masks; the cost is this many forward passes."] = 4000
    cells: Annotated[int, Ge(1), "Cells of a mask along each side."] = 7
    visible: Annotated[float, Gt(0), Lt(1), "Share of the cells that are visible."] = 0.5
    value: Annotated[Literal["score", "probability"], "The quantity measured."] = "score"
    baseline: Annotated[Baseline, "What stands where nothing is visible."] = 0.0
    seed: Annotated[Seed, "Seed of the masks."] = 0

    title: ClassVar[str] = "RISE"
    paper: ClassVar[str] = "Petsiuk et al. 2018, arXiv:1806.07421"
    cost: ClassVar[str] = "`masks` + 1 forwards"
    needs: ClassVar[Needs] = Needs()
    in_default_set: ClassVar[bool] = False
    spatial: ClassVar[tuple[int, ...]] = (2,)

    def maps(self, session: Session) -> Tensor:
        """1/(p n) sum_i S(M_i x + (1 - M_i) b) M_i."""
        x, b = session.image(), session.reference(self.baseline)
        rows = torch.arange(session.n).repeat_interleave(self.masks)

        def seen(span: slice) -> Tensor:
            M = torch.stack([self._mask(i % self.masks, x) for i in range(span.start, span.stop)])
            return torch.lerp(b[rows[span]], x[rows[span]], M)

        S = session.ask(rows, seen, self.value).unflatten(0, (session.n, self.masks))
        R = sum(S[:, i, ..., None, None, None] * self._mask(i, x).to(S) for i in range(self.masks))
        return R / (self.visible * self.masks)

    def _mask(self, number: int, x: Tensor) -> Tensor:
        """(1, H, W), the same for every image."""
        generator = generator_of(self.seed, number)
        size = [math.ceil(side / self.cells) for side in x.shape[2:]]
        coarse = (
            torch.rand((1, 1, self.cells + 1, self.cells + 1), generator=generator, dtype=torch.float64) < self.visible
        )
        fine = F.interpolate(coarse.double(), [(self.cells + 1) * side for side in size], mode="bilinear")[0]
        top, left = (int(torch.randint(side, (), generator=generator)) for side in size)
        return fine[:, top : top + x.shape[2], left : left + x.shape[3]].to(x)

    def passes(self) -> float:
        """One for each mask, and one to choose the class."""
        return self.masks + 1.0

    @property
    def view(self):
        """The signed sum."""
        return "sum"
