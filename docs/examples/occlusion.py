"""Occlusion: Zeiler and Fergus 2013."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deepviz.methods import Method
from deepviz.probe.session import Session


@dataclass(frozen=True)
class Occlusion(Method):
    """How much the class score falls when a patch of the image is covered.

    R_ij = S_c(x) - S_c(x with patch ij set to 0)
    """

    patch: Annotated[int, "Side of a patch, in pixels of the model's input."] = 32

    title: ClassVar[str] = "Occlusion"
    paper: ClassVar[str] = "Zeiler and Fergus 2013, arXiv:1311.2901"
    cost: ClassVar[str] = "1 forward for every patch"

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

    @property
    def view(self):
        """Drawn with its sign: covering a distraction raises the score."""
        return "sum"
