"""The fall of the score for each covered patch: Zeiler and Fergus 2013."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.methods import Method, Needs
from deepviz.options import Ge
from deepviz.probe.session import Session


@dataclass(frozen=True)
class CoveredPatches(Method):
    """How much the class score falls when a patch of the image is covered.

        R_ij = S_c(x) - S_c(x with patch ij set to 0)

    Shapes: x (N, C, H, W) -> (N, 1, h, w) for h x w patches.

    Errors: see `Method.__call__`.

    Pitfall: a covered patch may look like something else; evidence that occurs twice is not missed when one is covered.

    Example:
        >>> import torch
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
        >>> CoveredPatches(patch=4)(linear, torch.rand(1, 3, 8, 8), target=1).shape
        torch.Size([1, 1, 2, 2])
    """

    patch: Annotated[int, Ge(1), "Side of a patch, in pixels of the model's input."] = 32

    title: ClassVar[str] = "Covered patches"
    paper: ClassVar[str] = "Zeiler and Fergus 2013, arXiv:1311.2901"
    cost: ClassVar[str] = "1 forward for every patch"
    needs: ClassVar[Needs] = Needs(forward=True)
    spatial: ClassVar[tuple[int, ...]] = (2,)

    def maps(self, session: Session) -> Tensor:
        """The falls of the score, (N, 1, h, w) for h x w patches."""
        x, clean = session.image(), session.values()  # decides the class, if none was given
        tops, lefts = range(0, x.shape[2], self.patch), range(0, x.shape[3], self.patch)
        places = [(top, left) for top in tops for left in lefts]
        falls = [clean - session.with_image(self._covered(x, *place)).values() for place in places]
        return torch.stack(falls, -1).unflatten(-1, (1, len(tops), len(lefts)))

    def _covered(self, x: Tensor, top: int, left: int) -> Tensor:
        covered = x.clone()
        covered[:, :, top : top + self.patch, left : left + self.patch] = 0
        return covered

    def passes(self) -> float:
        """Of an image of 224 x 224, and one of the whole."""
        return 1 + math.ceil(224 / self.patch) ** 2

    @property
    def view(self):
        """Drawn with its sign: covering a distraction raises the score."""
        return "sum"
